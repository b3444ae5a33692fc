// Elements are made of text: nothing that came from a model or a user is ever read as markup.
const SVG = "http://www.w3.org/2000/svg";

function make(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const el = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);
const drawn = (tag, attributes = {}, ...children) => make(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

// Text with some of its characters marked. `spans` are [class, title, start, end]; where two overlap, the first wins.
// Starts and ends count code points, as Python does.
function marked(text, spans) {
  if (!spans.length) return [text];
  const points = Array.from(text), parts = [];
  let at = 0;
  for (const [kind, title, start, end] of [...spans].sort((a, b) => a[2] - b[2])) {
    if (start < at) continue;
    parts.push(points.slice(at, start).join(""));
    parts.push(el("mark", { class: kind, title }, points.slice(start, end).join("")));
    at = end;
  }
  return [...parts, points.slice(at).join("")];
}

// Where `words` stand in a text, as spans in code points.
function hits(text, words) {
  if (!words) return [];
  const fold = (characters) => characters.map((c) => c.toLowerCase());
  const points = fold(Array.from(text)), wanted = fold(Array.from(words)), spans = [];
  for (let i = 0; i + wanted.length <= points.length; i++) {
    if (wanted.every((c, k) => points[i + k] === c)) {
      spans.push(["hit", "found", i, i + wanted.length]);
      i += wanted.length - 1;
    }
  }
  return spans;
}
