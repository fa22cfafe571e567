// Elements, numbers in words, downloads.
export const at = (id) => document.getElementById(id);
// A share below 1 never reads 100 %, however it is rounded.
export const percent = (p, digits = 1) =>
  (p < 1 ? Math.min(100 * p, 100 - 0.1 ** digits) : 100 - 0.1 ** digits).toFixed(digits) + "\u00a0%";
export const share = (part, whole) => (whole ? (100 * part / whole).toFixed(0) : "0") + "\u00a0%";
export const count = (x) => x.toLocaleString("en-US");
export const counted = (x, noun) => `${count(x)} ${noun}${x === 1 ? "" : "s"}`;

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// content: a text, or a list of texts and elements
export const button = (content, onclick, attributes = {}) =>
  element("button", {type: "button", onclick, ...attributes}, content);

// Styles go through the object model: the page's policy refuses style attributes.
export function bar(value, kind = "adapter") {
  const fill = element("div", {class: kind});
  fill.style.width = `${Math.max(0.5, 100 * value)}%`;
  return element("div", {class: "bar", "aria-hidden": "true"}, fill);
}

// A line of a list of bars: a name, a number, and the bar below them.
export const barLine = (name, number, value, kind, tone = "") => element("li", {},
  element("span", {class: `name ${tone}`}, name), element("span", {class: "number"}, number), bar(value, kind));

export function select(title, choices, value, onchange) {
  const options = choices.map(([key, text]) => element("option", {value: key, selected: key === value}, text));
  const node = element("select", {onchange: () => onchange(node.value)}, options);
  return element("label", {}, title, " ", node);
}

export function download(name, blob) {
  const link = element("a", {href: URL.createObjectURL(blob), download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// An input as one text: itself, or the texts of its columns.
export const wordsOf = (input) => (typeof input === "string" ? input : Object.values(input).join(" · "));
export const lineOf = (input) => element("span", {class: "line"}, wordsOf(input).slice(0, 300));
