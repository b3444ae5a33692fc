// The reader: filters, the list of what they leave, and one or two open transcripts. The open one is in the address.
const PAGE = 40;
const chosen = {};
const open = {};
let shown = PAGE;

function buildFilters() {
  const fields = FILTERS.map((filter) => {
    const select = el("select", { id: `filter-${filter.key}`, onchange: () => choose(filter.key, select.value) });
    return el("div", {}, el("label", { for: select.id }, filter.label), select);
  });
  const search = el("input", { id: "filter-words", type: "search", autocomplete: "off", oninput: () => choose("words", search.value.trim()) });
  const clear = el("button", { type: "button", class: "plain", id: "clear", onclick: clearFilters }, "Clear filters");
  byId("filters").append(...fields, el("div", {}, el("label", { for: search.id }, "Words said"), search), clear);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
}

function choose(key, value) {
  chosen[key] = value;
  shown = PAGE;
  showResults();
  if (key === "words" && open.arm) showTranscripts(false);
}

function clearFilters() {
  for (const key of Object.keys(chosen)) delete chosen[key];
  byId("filter-words").value = "";
  shown = PAGE;
  showResults();
}

function showFilters() {
  for (const filter of FILTERS) {
    const counts = counted(filter, chosen), total = [...counts.values()].reduce((a, b) => a + b, 0);
    const values = [...counts.keys()].filter((v) => counts.get(v) || v === chosen[filter.key]);
    values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const options = values.map((value) => el("option", { value }, `${value} (${counts.get(value)})`));
    const select = byId(`filter-${filter.key}`);
    select.replaceChildren(el("option", { value: "" }, `all (${total})`), ...options);
    select.value = chosen[filter.key] || "";
  }
}

function showResults() {
  showFilters();
  const found = matching(chosen);
  byId("found").textContent = `${found.length} of ${episodes.length} episodes`;
  byId("results").replaceChildren(...found.slice(0, shown).map(entry));
  byId("more").hidden = found.length <= shown;
  byId("more").textContent = `Show ${Math.min(PAGE, found.length - shown)} more of ${found.length - shown}`;
}

function entry(episode) {
  const here = nameOf[episode.p] === open.arm && scenarios[episode.s].id === open.scenario && String(episode.seed) === open.seed;
  return el("li", {}, el("a", { href: linkTo(episode), "aria-current": here ? "true" : null },
    el("b", {}, nameOf[episode.p]), el("span", {}, `${scenarios[episode.s].id}, seed ${episode.seed}`), el("span", {}, result(episode))));
}

function tools(episode, second) {
  const others = beside(episode);
  if (second) return el("p", { class: "tools" }, el("button", { type: "button", class: "plain", onclick: () => go({ with: "" }) }, "Close this one"));
  const select = el("select", { id: "beside", onchange: () => go({ with: select.value }) },
    el("option", { value: "" }, others.length ? "nobody" : "no other arm played this"),
    others.map((other) => el("option", { value: nameOf[other.p], selected: nameOf[other.p] === open.with }, `${nameOf[other.p]} (${result(other)})`)));
  const found = matching(chosen), at = found.indexOf(episode);
  const step = (label, target) => el("button", { type: "button", class: "plain", disabled: !target, onclick: () => { location.hash = linkTo(target, { with: open.with }); } }, label);
  return el("div", { class: "tools" }, el("div", {}, el("label", { for: "beside" }, "Beside it, the same scenario and seed by"), select),
    step("Previous episode", found[at - 1]), step("Next episode", at < 0 ? null : found[at + 1]));
}

const go = (change) => { location.hash = link({ ...open, ...change }); };

function showTranscripts(focus) {
  const first = find(open.arm, open.scenario, open.seed);
  const second = first && open.with ? find(open.with, open.scenario, open.seed) : null;
  const state = { round: open.round, words: chosen.words };
  const round = (r) => go({ round: String(r) });
  const columns = [first, second].filter(Boolean).map((episode, i) => transcript(episode, state, { tools: tools(episode, i), round }));
  const place = byId("transcripts");
  place.classList.toggle("two", columns.length === 2);
  if (!columns.length) columns.push(el("p", {}, "The address names an episode that is not in this report."));
  place.replaceChildren(...columns);
  if (focus) place.querySelector("h3")?.focus();
}

function follow() {
  const hash = new URLSearchParams(location.hash.slice(1));
  if (!hash.has("arm")) return;
  const before = { ...open };
  for (const key of ["arm", "scenario", "seed", "with", "round"]) open[key] = hash.get(key) || "";
  const active = document.activeElement?.closest("#transcripts") ? document.activeElement : null;
  const [id, text, top] = [active?.id, active?.textContent, active?.getBoundingClientRect().top];
  const column = active?.closest(".transcript")?.dataset.arm;
  const moved = ["arm", "scenario", "seed"].some((key) => before[key] !== open[key]);
  showTranscripts(moved);
  if (moved) showResults();
  else if (active) restore(column, (e) => (id ? e.id === id : e.textContent === text), top);
}

// What had the focus before everything was drawn anew has it again, at the same height of the window.
function restore(column, same, top) {
  const all = [...document.querySelectorAll("#transcripts select, #transcripts button")].filter(same);
  const target = all.find((e) => e.closest(".transcript").dataset.arm === column) || all[0];
  target?.focus({ preventScroll: true });
  if (target) scrollBy({ top: target.getBoundingClientRect().top - top, behavior: "instant" });
}

buildFilters();
byId("more").addEventListener("click", () => {
  const before = shown;
  shown += PAGE;
  showResults();
  byId("results").children[before]?.querySelector("a").focus();
});
addEventListener("hashchange", follow);
showResults();
follow();
