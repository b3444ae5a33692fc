// Small drawings: positions over the rounds, and the Q-values of one turn.
const WIDE = 420, HIGH = 150, LEFT = 34, RIGHT = 10, TOP = 10, BOTTOM = 26;

function positionChart(episode, round) {
  const last = Math.max(...episode.turns.map((turn) => turn.r), 2);
  const values = episode.turns.filter((turn) => turn.x !== undefined).map((turn) => turn.x);
  const [low, high] = [Math.min(0, ...values), Math.max(1, ...values)];
  const x = (r) => LEFT + ((r - 1) / (last - 1)) * (WIDE - LEFT - RIGHT);
  const y = (v) => HIGH - BOTTOM - ((v - low) / (high - low)) * (HIGH - TOP - BOTTOM);
  const parts = [0, 1].flatMap((v) => [
    drawn("line", { class: "axis", x1: LEFT, x2: WIDE - RIGHT, y1: y(v), y2: y(v) }),
    drawn("text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, String(v)),
  ]);
  for (let r = 1; r <= last; r += last > 8 ? 2 : 1) {
    parts.push(drawn("text", { x: x(r), y: HIGH - 12, "text-anchor": "middle" }, String(r)));
  }
  if (round) parts.push(drawn("line", { class: "now", x1: x(round), x2: x(round), y1: TOP, y2: HIGH - BOTTOM }));
  for (const focal of [1, 0]) parts.push(...track(episode.turns.filter((t) => t.f === focal && t.x !== undefined), focal, x, y));
  parts.push(drawn("text", { x: (WIDE + LEFT) / 2, y: HIGH - 1, "text-anchor": "middle" }, "round"));
  const end = (focal) => episode.turns.filter((t) => t.f === focal && t.x !== undefined).at(-1);
  const where = (turn) => (turn ? turn.x.toFixed(2) : "nowhere");
  const label = `Positions over ${last} rounds: the focal side ends at ${where(end(1))}, the counterparty at ${where(end(0))}.`;
  return drawn("svg", { class: "chart", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label }, parts);
}

function track(turns, focal, x, y) {
  const kind = focal ? "focal" : "other";
  const dots = turns.map((t) =>
    focal
      ? drawn("circle", { class: "focal-dot", cx: x(t.r), cy: y(t.x), r: 3.4 })
      : drawn("rect", { class: "other-dot", x: x(t.r) - 3, y: y(t.x) - 3, width: 6, height: 6 }),
  );
  return [drawn("polyline", { class: kind, points: turns.map((t) => `${x(t.r)},${y(t.x)}`).join(" ") }), ...dots];
}

// All emotions, the best first; the one that was shown is marked.
function qBars(turn) {
  const rows = dialogues.labels.map((label, i) => [label, turn.q[i]]);
  const known = rows.filter(([, q]) => q !== null).sort((a, b) => b[1] - a[1]);
  const unseen = rows.filter(([, q]) => q === null).map(([label]) => label);
  const low = Math.min(0, ...known.map(([, q]) => q)), high = Math.max(0, ...known.map(([, q]) => q));
  const share = (q) => (100 * (q - low)) / (high - low || 1);
  const bars = known.map(([label, q], i) => {
    const bar = el("span", { class: "bar" });
    bar.style.left = `${Math.min(share(0), share(q))}%`;
    bar.style.width = `${Math.abs(share(q) - share(0))}%`;
    const picked = label === turn.e;
    const name = el("span", {}, picked ? el("span", { class: "hidden" }, "shown: ") : null, label);
    return el("li", { class: picked ? "picked" : null, "data-rank": i + 1 }, name,
      el("span", { class: "track", "aria-hidden": "true" }, bar), el("span", { class: "number" }, (q / 1000).toFixed(3)));
  });
  const note = unseen.length ? el("p", { class: "soft" }, `Never shown in the corpus, so not valued: ${unseen.join(", ")}.`) : null;
  return [el("ol", { class: "bars" }, bars), note];
}
