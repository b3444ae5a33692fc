// One episode: its facts, its course, and every turn.
const SIDES = { both: "both sides", focal: "focal side only", counterparty: "counterparty only" };
const FLAGS = (kind) => kind.replaceAll("_", " ");

function transcript(episode, state, handlers) {
  const scenario = scenarios[episode.s], roles = dialogues.domains[scenario.domain];
  const own = episode.turns.filter((turn) => turn.f && turn.q);
  const chosen = own.find((turn) => String(turn.r) === state.round) || own[0];
  const round = chosen ? chosen.r : Number(state.round) || null;
  const title = `${nameOf[episode.p]}: ${scenario.id}, seed ${episode.seed}`;
  return el("article", { class: "transcript", "data-arm": nameOf[episode.p] },
    el("h3", { tabindex: "-1" }, title),
    el("p", { class: "outcome" }, `${result(episode)}. Against ${episode.who}.`),
    handlers.tools,
    facts(scenario, roles),
    el("h4", {}, "Positions over the rounds"),
    el("p", { class: "soft" }, `1 is the ${roles.focal}'s target (solid, round), 0 the ${roles.counterparty}'s (dashed, square).`),
    positionChart(episode, round),
    el("h4", {}, "Words"),
    own.length ? null : el("p", { class: "soft" }, "No selector belongs to this arm's run, so there are no Q-values."),
    el("ol", { class: "turns" }, episode.turns.map((turn) => oneTurn(turn, turn === chosen, roles, state, handlers))),
  );
}

function facts(scenario, roles) {
  const rows = scenario.facts.map(([label, value, seen]) => [`${label} (seen by ${SIDES[seen] || seen})`, value]);
  rows.unshift([`target of the ${roles.focal} (focal side)`, scenario.targets[0]], [`target of the ${roles.counterparty}`, scenario.targets[1]]);
  return el("details", {}, el("summary", {}, `The case: ${roles.quantity}, in ${roles.unit}`),
    el("dl", {}, rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, String(value))))));
}

function oneTurn(turn, chosen, roles, state, handlers) {
  const spans = [...(turn.flags || []).map(([kind, start, end]) => ["flag", FLAGS(kind), start, end]), ...hits(turn.t, state.words)];
  const kind = `turn ${turn.f ? "focal" : "other"}${chosen ? " chosen" : ""}`;
  return el("li", { class: kind, "data-round": turn.r },
    el("div", { class: "soft" }, `Round ${turn.r}, ${turn.f ? roles.focal : roles.counterparty}`, turn.e ? [", shows ", el("strong", {}, turn.e)] : null),
    el("p", { dir: "auto", class: "words" }, marked(turn.t, spans)),
    el("div", { class: "soft" }, remarks(turn)),
    turn.f && turn.q ? qPart(turn, chosen, handlers) : null,
  );
}

function qPart(turn, chosen, handlers) {
  const attributes = { type: "button", class: "plain", "aria-expanded": String(chosen), onclick: () => handlers.round(turn.r) };
  return [el("button", attributes, `Q-values of round ${turn.r}`), chosen ? qBars(turn) : null];
}

function remarks(turn) {
  const parts = [];
  if (turn.act) parts.push(turn.act === "accept" ? "accepts" : "walks away");
  if (turn.o !== undefined) parts.push(`offer ${turn.o}, position ${turn.x.toFixed(2)}`);
  parts.push(`read as ${turn.p.map(([label, percent]) => `${label} ${percent}\u00a0%`).join(", ")}`);
  if (turn.added) parts.push("the sentence with the offer was added");
  if (turn.role_violations) parts.push(`attempts out of role: ${turn.role_violations.join(", ")}`);
  if (turn.flags) parts.push(`flagged: ${[...new Set(turn.flags.map(([kind]) => FLAGS(kind)))].join(", ")}`);
  return parts.join("; ");
}
