// The dialogues, parsed once, and the questions that are asked of them.
const dialogues = JSON.parse(byId("dialogues").textContent);
const { players, scenarios, episodes } = dialogues;

const nameOf = players.map((player) => player.name);
const ENDS = { deal: "deal", walk_away: "walked away", deadline: "deadline", invalid: "invalid" };

const FILTERS = [
  { key: "arm", label: "Arm", of: (e) => nameOf[e.p] },
  { key: "domain", label: "Domain", of: (e) => scenarios[e.s].domain },
  { key: "scenario", label: "Scenario", of: (e) => scenarios[e.s].id },
  { key: "seed", label: "Seed", of: (e) => String(e.seed) },
  { key: "opposite", label: "Counterparty", of: (e) => e.who },
  { key: "end", label: "Ended by", of: (e) => ENDS[e.end] || e.end },
];

// All words of an episode in small letters; made when somebody first searches.
const said = new Map();
function wordsOf(episode) {
  if (!said.has(episode)) said.set(episode, episode.turns.map((turn) => turn.t).join("\n").toLowerCase());
  return said.get(episode);
}

const fits = (episode, chosen, except) =>
  FILTERS.every((f) => f.key === except || !chosen[f.key] || f.of(episode) === chosen[f.key]) &&
  (!chosen.words || wordsOf(episode).includes(chosen.words.toLowerCase()));

const matching = (chosen) => episodes.filter((episode) => fits(episode, chosen));

// How many episodes each value of a filter would leave, with the other filters as they are.
function counted(filter, chosen) {
  const counts = new Map();
  for (const episode of episodes) counts.set(filter.of(episode), counts.get(filter.of(episode)) || 0);
  for (const episode of episodes) {
    if (fits(episode, chosen, filter.key)) counts.set(filter.of(episode), counts.get(filter.of(episode)) + 1);
  }
  return counts;
}

const find = (arm, scenario, seed) =>
  episodes.find((e) => nameOf[e.p] === arm && scenarios[e.s].id === scenario && String(e.seed) === seed);

const beside = (episode) => episodes.filter((e) => e !== episode && e.s === episode.s && e.seed === episode.seed);

const result = (episode) => {
  if (episode.end === "deal") return `deal at ${episode.deal}, utility ${episode.u.toFixed(2)}`;
  if (episode.end === "invalid") return `invalid: ${episode.fault || "no reason recorded"}`;
  return `${ENDS[episode.end] || episode.end}, utility ${episode.u.toFixed(2)}`;
};

function link(state) {
  const hash = new URLSearchParams();
  for (const key of ["arm", "scenario", "seed", "with", "round"]) if (state[key]) hash.set(key, state[key]);
  return `#${hash}`;
}

const linkTo = (episode, more = {}) =>
  link({ arm: nameOf[episode.p], scenario: scenarios[episode.s].id, seed: String(episode.seed), ...more });
