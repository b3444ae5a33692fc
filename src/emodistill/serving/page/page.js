// The page of `serve.py`: choose, talk, see the result, rate.
//
// The conversation lies here alone. The server gets all messages so far, answers, and remembers nothing.
// Elements are made of text: nothing that came from a model, a person or the server is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";
const LETTERS = "AB"; // two agents side by side
const TRIES = 20; // of a request that the server is too busy for
const READ = 3; // emotions shown of what was read in words
const ACCEPT = "I accept your offer.";
const LEAVE = "No deal, I am walking away.";
// The questions that people answered in the CaSiNo corpus (Chawla et al. 2021), with its answers, 1 to 5.
const QUESTIONS = {
  satisfaction: [
    "How satisfied are you with the result?",
    ["Extremely dissatisfied", "Slightly dissatisfied", "Undecided", "Slightly satisfied", "Extremely satisfied"],
  ],
  liking: [
    "How do you like the other side?",
    ["Extremely dislike", "Slightly dislike", "Undecided", "Slightly like", "Extremely like"],
  ],
};

const state = { run: null, scenarios: {}, talk: null, token: "", asking: null, history: [] };

const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;
const el = (tag, attributes, ...children) => make(document.createElement(tag), attributes, children);
const drawn = (tag, attributes, ...children) => make(document.createElementNS(SVG, tag), attributes, children);
const soft = (...words) => el("p", { class: "soft" }, ...words);

function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && known(value)) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => known(child) && child !== ""));
  return element;
}

function option(value, words, chosen = false) {
  return el("option", { value, selected: chosen }, words);
}

function tick(type, attributes, words) {
  return el("label", {}, el("input", { type, ...attributes }), words);
}

// A table that a narrow screen shows as a list; `rows` begin with their name.
function table(caption, head, rows, kind = "") {
  const cells = (row) => row.map((cell, i) => el("td", { class: kind, "data-head": head[i + 1] }, String(cell)));
  const line = ([name, ...row]) => el("tr", {}, el("th", { scope: "row" }, name), cells(row));
  const titles = head.map((title, i) => el("th", { scope: "col", class: i ? kind : "" }, title));
  return el("table", { class: "stacked" }, el("caption", {}, caption), el("thead", {}, el("tr", {}, titles)),
    el("tbody", {}, rows.map(line)));
}

// The server.

class Problem extends Error {} // its message is for the person, with the way out

// What the server answers, as an object. It waits where the server is busy, and asks for a token where one is needed.
async function ask(path, body) {
  for (let tries = 0; ; tries++) {
    const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const sent = body ? { method: "POST", body: JSON.stringify(body) } : {};
    const answer = await fetch(path, { ...sent, headers, cache: "no-store" }).catch(() => null);
    if (!answer) throw new Problem("The server does not answer. See whether it still runs, then try again.");
    const wait = answer.headers.get("Retry-After");
    if (answer.status === 401) await newToken();
    else if (wait && tries < TRIES) await pause(Number(wait) || 1);
    else return content(answer);
  }
}

async function content(answer) {
  const found = await answer.json().catch(() => null);
  if (answer.ok && found) return found;
  const sentence = found?.error?.message;
  if (sentence) throw new Problem(`${capital(sentence)}.`);
  throw new Problem(`The server answered with status ${answer.status}; try again.`);
}

async function pause(seconds) {
  const before = byId("waiting").textContent;
  byId("waiting").textContent = `The server is busy. This page asks again in ${Math.ceil(seconds)} s.`;
  await new Promise((done) => setTimeout(done, 1000 * seconds));
  byId("waiting").textContent = before;
}

// Resolves when the person has given a token; several requests wait for the same one.
function newToken() {
  const form = byId("token");
  if (state.token) complain("The server does not take this token; give another one.");
  state.asking ??= new Promise((done) => {
    form.hidden = false;
    form.onsubmit = (event) => {
      event.preventDefault();
      const token = byId("token-value").value.trim();
      if (/[^\x20-\xff]/.test(token)) { // the browser could not send it
        complain("A token has letters, digits and signs of Latin script alone; look for a wrong character.");
        return;
      }
      state.token = token;
      state.asking = null;
      form.hidden = true;
      complain("");
      done();
    };
    byId("token-value").focus();
  });
  return state.asking;
}

function complain(sentence) {
  byId("problem").textContent = sentence;
  byId("problem").hidden = !sentence;
}

// Runs a step and shows its problem, if it has one; anything else that fails is a mistake of this page.
async function attempt(step) {
  complain("");
  try {
    return await step();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    complain(error.message);
    byId("problem").scrollIntoView({ block: "nearest" });
    return null;
  }
}

// Choices.

async function open() {
  const run = (state.run = await ask("api/run"));
  byId("run").textContent = `Run ${run.run}, guard ${run.guard}.`;
  byId("disclosure").textContent = run.disclosure;
  const unless = run.record ? " unless you agree to it at the end" : "";
  byId("storage").textContent = `Nothing that you say is stored${unless}.`;
  byId("words").maxLength = run.limits.characters;
  byId("domain").replaceChildren(...run.domains.map((one) => option(one.name, `${one.name}: ${one.quantity}`)));
  byId("pool").replaceChildren(...run.arms.map((arm) => tick("checkbox", { value: arm.id, checked: true }, arm.id)));
  const alone = run.arms.length < 2;
  for (const field of [byId("blind"), document.querySelector("[name=seats][value='2']")]) field.disabled = alone;
  byId("seed").value = newSeed();
  if (!run.domains.length) throw new Problem("There are no scenarios here; use the API, with a domain and a target.");
  byId("setup").hidden = false;
  await showDomain();
}

const newSeed = () => Math.floor(Math.random() * 1000000);
const domain = () => state.run.domains.find((one) => one.name === byId("domain").value);
const scenario = () => state.scenarios[byId("domain").value].find((one) => one.id === byId("scenario").value);
const side = () => document.querySelector("[name=side]:checked")?.value ?? "counterparty";
const other = (one) => (one === "focal" ? "counterparty" : "focal");
const seatCount = () => Number(document.querySelector("[name=seats]:checked").value);

async function showDomain() {
  const { name, roles } = domain(), chosen = side();
  state.scenarios[name] ??= await ask(`api/scenarios?domain=${encodeURIComponent(name)}`);
  const title = (one) => (one.title ? `${one.id}: ${one.title}` : one.id);
  byId("scenario").replaceChildren(...state.scenarios[name].map((one) => option(one.id, title(one))));
  const seat = (value, words) =>
    tick("radio", { name: "side", value, checked: value === chosen, onchange: showChoices }, words);
  byId("sides").replaceChildren(
    seat("counterparty", `${roles.counterparty}, opposite an agent of this run`),
    state.run.counterparty ? seat("focal", `${roles.focal}, opposite this run's counterparty`) : "",
  );
  showChoices();
}

// What can be chosen hangs together: as the focal side one meets the run's counterparty; blind, one names no arm.
function showChoices() {
  const { arms } = state.run, blind = byId("blind").checked, seats = seatCount();
  byId("brief").textContent = scenario()[side()].view;
  byId("opposite").hidden = side() === "focal";
  byId("named").hidden = blind;
  byId("drawn").hidden = !blind;
  const before = [...byId("named").querySelectorAll("select")].map((one) => one.value);
  byId("named").replaceChildren(...Array.from({ length: seats }, (_, seat) => {
    const chosen = before[seat] ?? arms[Math.min(seat, arms.length - 1)].id, id = `arm-${seat}`;
    const options = arms.map((arm) => option(arm.id, `${arm.id}: ${arm.line}`, arm.id === chosen));
    const label = el("label", { for: id }, seats > 1 ? `Agent ${LETTERS[seat]}` : "Agent");
    return el("div", {}, label, el("select", { id }, options));
  }));
}

// Who sits opposite; blind, they are drawn from what is ticked.
function models() {
  if (side() === "focal") return ["counterparty"];
  if (!byId("blind").checked) return [...byId("named").querySelectorAll("select")].map((one) => one.value);
  const pool = [...byId("pool").querySelectorAll(":checked")].map((one) => one.value);
  if (pool.length < 2) throw new Problem("Blind needs at least two arms to draw from; tick another one.");
  const draw = () => pool.splice(Math.floor(Math.random() * pool.length), 1)[0];
  return Array.from({ length: seatCount() }, draw);
}

// The conversation. A thread is what one agent has heard and said.

async function begin() {
  const mine = side(), blind = mine === "counterparty" && byId("blind").checked;
  const threads = models().map((model, seat) => ({ model, seat, messages: [], replies: [], end: null }));
  const about = { domain: domain(), scenario: scenario(), seed: byId("seed").value, mine, threads };
  state.talk = { ...about, blind, masked: blind, log: [], busy: false, over: false };
  const { talk } = state;
  byId("talk-heading").textContent = `${talk.scenario.id}: you are the ${talk.domain.roles[mine]}`;
  byId("told").textContent = talk.scenario[mine].view;
  byId("words-help").textContent = `(offers are said like \u201c${value(45)}\u201d; Enter sends)`;
  byId("rows").className = threads.length > 1 ? "two" : "one";
  byId("words").value = "";
  for (const id of ["log", "result", "after", "tally"]) byId(id).replaceChildren();
  show("talk");
  draw();
  byId("talk-heading").focus();
  if (mine === "counterparty" && !(await speak(null, threads))) leave();
  else if (state.talk === talk) byId("words").focus();
}

function show(...ids) {
  for (const id of ["setup", "talk", "end"]) byId(id).hidden = !ids.includes(id);
  for (const id of ["say", "leave"]) byId(id).hidden = ids.includes("end");
}

function leave() {
  wait(false);
  state.talk = null;
  byId("seed").value = newSeed();
  show("setup");
  byId("setup-heading").focus();
}

// What the person has typed, or what a button says for them.
async function say(words, threads) {
  const { talk } = state;
  if (!words.trim() || talk.busy) return;
  byId("words").focus({ preventScroll: true });
  const answered = await speak(withUnit(words.trim()), threads);
  if (answered && state.talk === talk && byId("words").value === words) byId("words").value = "";
}

// Says words to some threads and shows what they answer, all at once, so that speed gives no agent away.
// Where one does not answer, none has heard anything. Returns whether they answered.
async function speak(words, threads) {
  const { talk } = state;
  const said = words === null ? null : { kind: "mine", words, threads, row: threads[0].messages.length, heard: [] };
  if (said) talk.log.push(said);
  draw();
  wait(true);
  const replies = await attempt(() => Promise.all(threads.map((thread) => complete(talk, thread, words))));
  if (state.talk !== talk) return true; // the person has left meanwhile
  wait(false);
  if (replies) replies.forEach((reply, i) => take(threads[i], said, reply));
  else if (said) talk.log.splice(talk.log.indexOf(said), 1);
  draw();
  if (!replies) return false;
  byId("say").scrollIntoView({ block: "nearest" });
  byId("rows").lastElementChild.scrollIntoView({ block: "nearest" });
  if (talk.threads.every((thread) => thread.end)) finish();
  return true;
}

const user = (content) => ({ role: "user", content });
const metadata = ({ scenario, seed }) => ({ scenario: scenario.id, seed });
const running = () => state.talk.threads.filter((thread) => !thread.end);

async function complete(talk, { model, messages }, words) {
  const sent = words === null ? messages : [...messages, user(words)];
  const answer = await ask("v1/chat/completions", { model, messages: sent, metadata: metadata(talk) });
  return { words: answer.choices[0].message.content, ...answer.emodistill };
}

function take(thread, said, reply) {
  const { log, masked } = state.talk;
  if (said) {
    thread.messages.push(user(said.words));
    said.heard.push(reply);
  }
  thread.replies.push(reply);
  thread.end = reply.end;
  if (reply.words) {
    log.push({ kind: "theirs", thread, reply, row: thread.messages.length });
    thread.messages.push({ role: "assistant", content: reply.words, emotion: reply.emotion });
    announce(`${name(thread)}: ${reply.words}${!masked && reply.emotion ? ` Shows ${reply.emotion}.` : ""}`);
  }
  if (reply.end) {
    log.push({ kind: "end", thread, row: thread.messages.length });
    announce(`${prefix(thread)}${outcome(thread)}`);
  }
}

function announce(sentence) {
  byId("log").append(el("p", {}, sentence));
}

function wait(busy) {
  const { talk } = state;
  talk.busy = busy;
  const who = talk.threads.length > 1 ? "The agents answer" : `The ${theirRole()} answers`;
  byId("waiting").textContent = busy ? `${who} ...` : "";
  byId("words").readOnly = busy;
  for (const button of byId("say").querySelectorAll("button")) button.disabled = busy;
}

// In words.

const clock = (unit) => /^minutes after (\d+):(\d+)$/.exec(unit);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const percent = (share) => `${Math.round(100 * share)}%`;
const theirRole = () => state.talk.domain.roles[other(state.talk.mine)];
const letter = (thread) => (state.talk.threads.length > 1 ? `Agent ${LETTERS[thread.seat]}` : "");
const prefix = (thread) => (letter(thread) ? `${letter(thread)}: ` : "");
const highest = (shares) => Object.entries(shares).sort((a, b) => b[1] - a[1]);

// The few emotions that were read most, none of them a share that is as good as nothing.
function inWords(shares) {
  const seen = highest(shares).filter(([, share], i) => !i || (i < READ && share >= 0.01));
  return seen.map(([label, share]) => `${label} ${percent(share)}`).join(", ");
}

// An offer as the domain says it: "45 days", "1 day", "10:30 PM".
function value(number) {
  const { unit } = state.talk.domain, from = clock(unit);
  if (!from) return `${number} ${number === 1 ? unit.replace(/s$/, "") : unit}`;
  const minutes = (Math.round(number) + 60 * from[1] + Number(from[2]) + 1440) % 1440, hour = Math.floor(minutes / 60);
  return `${((hour + 11) % 12) + 1}:${String(minutes % 60).padStart(2, "0")} ${hour < 12 ? "AM" : "PM"}`;
}

// A number that is all one says is an offer in the domain's unit.
function withUnit(words) {
  const alone = /^(\d{1,4}(?:\.\d+)?)([.?!]*)$/.exec(words);
  return alone && !clock(state.talk.domain.unit) ? `${value(Number(alone[1]))}${alone[2]}` : words;
}

function name(thread) {
  const { masked, mine } = state.talk;
  const which = [letter(thread), masked || mine === "focal" ? "" : thread.model].filter(Boolean).join(", ");
  return which ? `${theirRole()} (${which})` : theirRole();
}

function outcome({ replies }) {
  const last = replies.at(-1);
  if (known(last.deal_value)) return `A deal at ${value(last.deal_value)}, in round ${last.round}.`;
  const who = last.act === "walk_away" ? `the ${theirRole()}` : "you";
  if (last.end === "walk_away") return `No deal: ${who} walked away.`;
  if (last.end === "deadline") return `No deal: all ${last.round} rounds are over.`;
  return `The talks broke off: ${last.fault}.`;
}

function understood(heard) {
  if (heard.act === "accept") return "an acceptance";
  if (heard.act === "walk_away") return "leaving";
  return known(heard.offer) ? `an offer of ${value(heard.offer)}` : "no offer";
}

// On the screen. Turns of the same place stand in one row: the person's words once, under them each agent's answer.

function draw() {
  const { talk } = state, rows = new Map(), shape = { mine: myTurn, theirs: theirTurn, end: ending };
  const open = new Set([...byId("rows").querySelectorAll("details[open]")].map((one) => one.dataset.turn));
  const focused = document.activeElement.closest("details")?.dataset.turn;
  for (const entry of talk.log) {
    if (!rows.has(entry.row)) rows.set(entry.row, el("div", { class: "row" }));
    rows.get(entry.row).append(shape[entry.kind](entry));
  }
  byId("rows").replaceChildren(...[...rows.keys()].sort((a, b) => a - b).map((key) => rows.get(key)));
  for (const one of byId("rows").querySelectorAll("details")) {
    one.open = open.has(one.dataset.turn);
    if (one.dataset.turn === focused) one.firstElementChild.focus({ preventScroll: true });
  }
  byId("charts").replaceChildren(...talk.threads.map(chart));
  byId("quick").replaceChildren(...running().flatMap(acceptButton));
  const replies = Math.max(...talk.threads.map((thread) => thread.replies.length));
  const round = Math.max(1, talk.mine === "focal" ? replies + 1 : replies), { rounds } = state.run.limits;
  byId("target").textContent = `Round ${round} of ${rounds}. Your target: ${talk.scenario[talk.mine].target_words}.`;
}

const place = (threads) => (threads.length === state.talk.threads.length ? "everyone" : `seat-${threads[0].seat}`);

function myTurn({ words, threads, heard }) {
  const { talk } = state, to = threads.length < talk.threads.length ? `, to ${letter(threads[0])}` : "";
  const ways = heard.filter((reply) => reply.heard).map((reply) => understood(reply.heard));
  const each = ways.map((way, i) => `${prefix(threads[i])}${way}`).join("; ");
  const all = ways.every((way) => way === ways[0]) ? ways[0] : each;
  const reader = talk.masked ? null : heard.find((reply) => Object.keys(reply.perceived).length);
  return el("article", { class: `turn mine-turn ${place(threads)}` },
    el("h3", {}, `${talk.domain.roles[talk.mine]} (you${to})`),
    el("p", { class: "words", dir: "auto" }, words),
    all ? soft(`Understood as ${all}.`) : null,
    reader ? soft("Emotion read in it: ", inWords(reader.perceived), ".") : null);
}

function theirTurn({ thread, reply, row }) {
  const acts = { accept: "accepts", walk_away: "walks away" }, { masked } = state.talk;
  const does = acts[reply.act] ?? (known(reply.offer) ? `offers ${value(reply.offer)}` : "");
  const emotion = !masked && reply.emotion ? [el("span", { class: "emotion" }, `shows ${reply.emotion}`), " "] : null;
  return el("article", { class: `turn theirs-turn ${place([thread])}` },
    el("h3", {}, name(thread)),
    el("p", { class: "words", dir: "auto" }, reply.words),
    soft(emotion, does),
    masked ? null : why(reply, `${thread.seat}-${row}`));
}

function ending({ thread }) {
  return el("p", { class: place([thread]) }, el("strong", {}, prefix(thread), outcome(thread)));
}

// What the agent thought: every emotion with its probability and its Q-value, and what was changed.
function why(reply, turn) {
  const refused = [...reply.guard, ...reply.role_violations], emotions = highest(reply.probabilities);
  const notes = [
    refused.length ? soft(`Refused before these words: ${refused.join(", ")}.`) : null,
    reply.offer_appended ? soft("The sentence with the offer was added.") : null,
  ].filter(Boolean);
  if (!emotions.length && !notes.length) return null;
  const summary = emotions.length ? `What it valued (${emotions.length} emotions)` : "What was changed";
  return el("details", { "data-turn": turn }, el("summary", {}, summary), notes,
    emotions.length ? values(emotions, reply) : null);
}

// Bars start at 0; Q-values differ by little, so dots stand between the lowest and the highest.
function values(emotions, { emotion, q_values: q }) {
  const low = Math.min(...Object.values(q)), high = Math.max(...Object.values(q)), most = emotions[0][1];
  const unread = (kind, ...marks) => el("td", { class: kind, "aria-hidden": "true" }, marks);
  const track = (mark) => unread("track-cell", el("span", { class: "track" }, mark));
  const rows = emotions.map(([label, share]) => {
    const bar = el("span", { class: "bar" }), dot = el("span", { class: "dot" }), shown = label === emotion;
    bar.style.width = `${(100 * share) / most}%`;
    dot.style.left = `${high > low ? (100 * (q[label] - low)) / (high - low) : 50}%`;
    return el("tr", { class: shown ? "picked" : null },
      el("th", { scope: "row" }, label, shown ? " (shown)" : ""),
      track(bar), el("td", { class: "n" }, percent(share)),
      track(dot), el("td", { class: "n" }, q[label].toFixed(2)));
  });
  const about = "Probability, and Q-value in units of the scaled reward, before the guard. ";
  const head = (words) => el("th", { scope: "col", class: "n" }, words);
  return el("table", { class: "values" },
    el("caption", {}, about, `Dots: Q from ${low.toFixed(2)} to ${high.toFixed(2)}.`),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Emotion"), unread(), head("Prob."), unread(), head("Q"))),
    el("tbody", {}, rows));
}

function acceptButton(thread) {
  const offer = thread.replies.map((reply) => reply.offer).filter(known).at(-1);
  if (!known(offer)) return [];
  const whose = state.talk.threads.length > 1 ? ` of ${LETTERS[thread.seat]}` : "";
  const attributes = { type: "button", disabled: state.talk.busy, onclick: () => say(ACCEPT, [thread]) };
  return [el("button", attributes, `Accept ${value(offer)}${whose}`)];
}

// The offers of both sides over the rounds, in the domain's unit. The other side's target is drawn at the end only.
const WIDE = 360, HIGH = 180, LEFT = 66, RIGHT = 12, TOP = 16, BOTTOM = 32;

function chart(thread) {
  const { talk } = state, { replies } = thread, theirs = theirRole();
  const answers = talk.mine === "counterparty" ? replies.slice(1) : replies; // an opening answers nothing
  const points = (offers) => offers.map((offer, i) => [i + 1, offer]).filter(([, offer]) => known(offer));
  const lines = {
    theirs: points(replies.map((reply) => reply.offer)),
    mine: points(answers.map((reply) => reply.heard?.offer)),
  };
  const targets = { mine: talk.scenario[talk.mine].target };
  if (talk.over) targets.theirs = talk.scenario[other(talk.mine)].target;
  const offers = Object.values(lines).flatMap((line) => line.map(([, offer]) => offer));
  const numbers = [...offers, ...Object.values(targets)], bottom = Math.min(...numbers);
  const top = Math.max(...numbers, bottom + 1), last = Math.max(replies.at(-1)?.round ?? 1, 4);
  const x = (round) => LEFT + ((round - 1) / (last - 1)) * (WIDE - LEFT - RIGHT);
  const y = (offer) => HIGH - BOTTOM - ((offer - bottom) / (top - bottom)) * (HIGH - TOP - BOTTOM);
  const level = (kind, offer) => drawn("line", { class: kind, x1: LEFT, x2: WIDE - RIGHT, y1: y(offer), y2: y(offer) });
  const text = (words, x, y, anchor, kind) => drawn("text", { x, y, "text-anchor": anchor, class: kind }, words);
  const axes = [bottom, top].map((offer) => [level("axis", offer), text(value(offer), LEFT - 6, y(offer) + 4, "end")]);
  const step = last > 12 ? 3 : 1;
  const rounds = Array.from({ length: last }, (_, i) => i + 1).filter((round) => (round - 1) % step === 0);
  const ticks = rounds.map((round) => text(String(round), x(round), HIGH - 15, "middle"));
  const goals = Object.entries(targets).map(([who, target]) => {
    const words = who === "mine" ? "your target" : `target of the ${theirs}`;
    const height = y(target) + (y(target) < HIGH / 2 ? 13 : -5);
    return [level(`target ${who}`, target), text(words, WIDE - RIGHT, height, "end", `${who}-word`)];
  });
  const tracks = Object.entries(lines).map(([who, line]) => [
    drawn("polyline", { class: who, points: line.map(([round, offer]) => `${x(round)},${y(offer)}`).join(" ") }),
    line.map(([round, offer]) => (who === "theirs"
      ? drawn("circle", { class: "theirs-dot", cx: x(round), cy: y(offer), r: 4 })
      : drawn("rect", { class: "mine-dot", x: x(round) - 3.5, y: y(offer) - 3.5, width: 7, height: 7 }))),
  ]);
  const told = (line) => line.map(([round, offer]) => `round ${round} ${value(offer)}`).join(", ") || "none";
  const label = `Offers over the rounds. The ${theirs}: ${told(lines.theirs)}. You: ${told(lines.mine)}.`;
  const attributes = { class: "chart", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label };
  return el("figure", {},
    drawn("svg", attributes, axes, ticks, text("round", (LEFT + WIDE - RIGHT) / 2, HIGH - 1, "middle"), goals, tracks),
    el("figcaption", {}, `${prefix(thread)}\u25CF ${theirs}, \u25A0 you`));
}

// The end: the result, the rating, and blind then who it was.

function finish() {
  const { talk } = state;
  talk.over = true;
  show("talk", "end");
  draw();
  showResult();
  const questions = talk.threads.flatMap((thread) => Object.keys(QUESTIONS).map((key) => scale(thread, key)));
  const whom = [["0", "Agent A"], ["1", "Agent B"], ["", "No difference"]];
  if (talk.threads.length > 1) questions.push(choice("Whom would you rather meet again?", "preferred", whom));
  byId("questions").replaceChildren(...questions);
  byId("consent").replaceChildren(...consent());
  byId("rating").hidden = false;
  byId("again").hidden = true;
  byId("end-heading").focus();
}

function showResult() {
  const { scenario, threads, mine } = state.talk, theirs = theirRole(), opposite = scenario[other(mine)];
  const shares = (thread) => {
    const last = thread.replies.at(-1);
    if (!known(last.deal_value)) return ["none", "none"];
    const own = Math.round(100 * (mine === "focal" ? last.utility : 1 - last.utility));
    return [`${own}%`, `${100 - own}%`];
  };
  const rows = threads.map((thread) => [name(thread), outcome(thread), ...shares(thread)]);
  const about = "Share: 100% is a deal at one's own target, 0% one at the other side's.";
  byId("result").replaceChildren(
    el("p", {}, `Your target was ${scenario[mine].target_words}, that of the ${theirs} ${opposite.target_words}.`),
    table(about, ["Opposite", "Result", "Your share", `Share of the ${theirs}`], rows),
    el("details", {}, el("summary", {}, `What the ${theirs} was told`), el("p", { class: "card" }, opposite.view)));
}

function scale(thread, key) {
  const [question, answers] = QUESTIONS[key];
  return choice(`${prefix(thread)}${question}`, `${key}-${thread.seat}`, answers.map((words, i) => [i + 1, words]));
}

function choice(question, field, answers) {
  const ticks = answers.map(([answer, words]) => tick("radio", { name: field, value: answer }, words));
  return el("fieldset", { class: "scale" }, el("legend", {}, question), el("div", { class: "choices" }, ticks));
}

function consent() {
  if (!state.run.record) return [soft("Nothing is stored: your rating stays on this page.")];
  const { threads } = state.talk;
  const broken = threads.some(brokeOff) ? soft("Talks that broke off are not stored.") : "";
  if (threads.every(brokeOff)) return [broken];
  const words = "I agree that what was said here and my rating are stored on this server and used as research data.";
  const agree = el("div", { class: "choices" }, tick("checkbox", { id: "agree" }, words));
  return [agree, soft("Without your consent nothing is stored."), broken];
}

const brokeOff = (thread) => thread.end === "invalid"; // its messages do not say so: to the server it is not over

// A thread's answers as they are stored; of two, 1 is the preferred one, and 0.5 stands for no difference.
function rating(thread) {
  const form = new FormData(byId("rating")), found = {}, preferred = form.get("preferred");
  for (const key of Object.keys(QUESTIONS)) {
    const given = form.get(`${key}-${thread.seat}`);
    if (given !== null) found[key] = Number(given);
  }
  if (preferred !== null) found.preferred = preferred === "" ? 0.5 : Number(preferred === String(thread.seat));
  for (const beside of state.talk.threads) if (beside !== thread) found.beside = beside.model;
  return found;
}

async function rate() {
  const { talk } = state, ratings = talk.threads.map(rating), agreed = byId("agree")?.checked;
  const buttons = [byId("rate"), byId("skip-rating")];
  for (const button of buttons) button.disabled = true;
  try {
    for (const [i, thread] of talk.threads.entries()) {
      if (!agreed || thread.stored || brokeOff(thread)) continue;
      await store(thread, ratings[i]);
      thread.stored = true; // and stays so: a second try stores only what the first has not
    }
  } finally {
    for (const button of buttons) button.disabled = false;
  }
  conclude(ratings);
}

// What became of the talks, whatever was ticked last.
function kept() {
  const { threads } = state.talk, stored = threads.filter((thread) => thread.stored);
  if (!stored.length) return "Nothing was stored.";
  if (stored.length === threads.length) return "Stored. Thank you.";
  return `Only the talk with ${letter(stored[0])} was stored. Thank you.`;
}

function store({ model, messages }, rating) {
  const { talk } = state;
  return ask("api/record", { consent: true, model, messages, metadata: metadata(talk), rating, blind: talk.blind });
}

// After the rating nothing is masked any longer.
function conclude(ratings) {
  const { talk } = state;
  const who = talk.threads.map((thread) => `${letter(thread) || "It"} was ${thread.model}`).join(", ");
  talk.masked = false;
  talk.threads.forEach(({ model, replies }, i) =>
    state.history.push({ model, mine: talk.mine, ...replies.at(-1), ...ratings[i] }));
  draw();
  showResult();
  byId("after").replaceChildren(el("p", {}, talk.blind ? el("strong", {}, `${who}. `) : "", kept()));
  byId("tally").replaceChildren(tally());
  byId("rating").hidden = true;
  byId("again").hidden = false;
  byId("again").focus();
}

// What came of all talks since the page was opened, by who sat opposite.
function tally() {
  const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  const share = ({ end, mine, utility }) => (end !== "deal" ? 0 : mine === "focal" ? utility : 1 - utility);
  const rows = [...new Set(state.history.map((one) => one.model))].map((model) => {
    const own = state.history.filter((one) => one.model === model);
    const rated = Object.keys(QUESTIONS).map((key) => own.map((one) => one[key]).filter(known));
    const means = rated.map((given) => (given.length ? mean(given).toFixed(1) : "unrated"));
    return [model, own.length, own.filter((one) => one.end === "deal").length, percent(mean(own.map(share))), ...means];
  });
  const about = "Since this page was opened: means, where no deal is a share of 0%, and ratings go from 1 to 5.";
  return table(about, ["Opposite", "Talks", "Deals", "Your share", "Satisfied", "Liked"], rows, "n");
}

const skip = () => conclude(state.talk.threads.map(() => ({})));
const on = (target, event, step) => target.addEventListener(event, step);
const submits = (id, step) => on(byId(id), "submit", (event) => {
  event.preventDefault();
  step();
});

on(byId("domain"), "change", () => attempt(showDomain));
for (const field of document.querySelectorAll("[name=seats], #blind, #scenario")) on(field, "change", showChoices);
submits("setup", () => attempt(begin));
submits("say", () => say(byId("words").value, running()));
submits("rating", () => attempt(rate));
on(byId("words"), "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("say").requestSubmit();
});
on(byId("walk"), "click", () => say(LEAVE, running()));
on(byId("leave"), "click", leave);
on(byId("skip-rating"), "click", skip);
on(byId("again"), "click", leave);
attempt(open);
