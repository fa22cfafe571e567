// --- which words moved an answer
const explained = evaluation.explained, most = 0.6, least = 0.12;  // opacity of the heaviest word; the least share of its weight that is marked
if (explained) {
  const {rows, num_errors, deletion, seconds} = explained, num = Object.keys(rows).length;
  const sample = (side, text) => element("mark", {class: side, style: `--weight: ${most / 2}`}, text);
  at("explained").append(num ? element("p", {}, `The ${count(num)} most confident of ${counted(num_errors, "error")} are explained. ` +
    "Open one to see ", sample("for", "words for the answer"), " and ", sample("against", "words against it"), ". The stronger the color, the more the " +
    "answer's log-odds (how many times likelier it is than the rest, as a logarithm) change when the word is left out. In long texts, words are also left out in groups; the words of a " +
    "group share its change.") : "No errors to explain.");
  if (num) at("explained").append(element("p", {class: "soft"}, (deletion === null ? "" :
    sentence(deletion.sentence) + " ") + `Explaining took ${seconds.toFixed(1)} s, on top of the evaluation.`));
}
function textOf(row) {  // the parts that the model saw, with their words marked, and the others folded away
  const words = explained && explained.rows[row.number] ? explained.rows[row.number].words : [];
  const letters = Array.from(row.text), parts = [];  // offsets count characters, not UTF-16 units
  const heaviest = Math.max(1e-9, ...words.map((word) => Math.abs(word[2])));
  const between = (start, end) => letters.slice(start, end).join("");
  const addUnseen = (start, end) => { const text = between(start, end).trim(), num = Array.from(text).length;
    if (num) parts.push(element("details", {class: "cut"}, element("summary", {}, num === 1 ?
      "1 character was truncated: the model did not see it" : `${count(num)} characters were truncated: the model did not see them`),
      element("p", {}, text))); };
  let position = 0;
  for (const [first, last] of row.kept || [[0, letters.length]]) {
    addUnseen(position, first);
    position = first;
    const paragraph = element("p");
    for (const [start, end, contribution] of words) {
      const share = Math.abs(contribution) / heaviest, from = Math.max(start, first), to = Math.min(end, last);
      if (share < least || from >= to) continue;
      paragraph.append(between(position, from), element("mark", {class: contribution > 0 ? "for" : "against",
        title: (contribution < 0 ? "−" : "+") + Math.abs(contribution).toFixed(2), style: `--weight: ${most * share}`},
        between(from, to)));
      position = to;
    }
    paragraph.append(between(position, last));
    if (last > first) parts.push(paragraph);
    position = last;
  }
  addUnseen(position, letters.length);
  return parts;
}

// --- browsing the rows
const wrong = (row) => row.predicted !== row.truth, sure = (row) => row.probabilities[row.predicted];
// the answer's lead over the next label; with two labels, 0.5 is a probability of 0.75
const lead = (row) => sure(row) - Math.max(...row.probabilities.filter((p, i) => i !== row.predicted));
const uncertain = (row) => lead(row) < 0.5;
at("uncertain").textContent = evaluation.labels.length === 2 ? "uncertain (below 75 %)" : "uncertain (leading by less than 50 points)";
at("truth").append(element("option", {value: ""}, "any true label"),
  ...evaluation.labels.map((label, i) => element("option", {value: i}, "true label: " + label)));
const orders = {sure: (a, b) => sure(b) - sure(a), unsure: (a, b) => lead(a) - lead(b),
  long: (a, b) => b.num_words - a.num_words, short: (a, b) => a.num_words - b.num_words};
let limit = 50;
function matchingRows() {
  const words = at("search").value.toLowerCase(), kind = at("kind").value, truth = at("truth").value;
  return data.rows.filter((row) => (kind === "all" || (kind === "wrong" ? wrong(row) : uncertain(row))) &&
    (truth === "" || row.truth === +truth) && (!at("cut").checked || row.truncated) &&
    (!at("twin").checked || row.twin) && (!words || row.text.toLowerCase().includes(words))
  ).sort(orders[at("sort").value]);
}
function show() {
  const rows = matchingRows();
  at("count").textContent = `${count(rows.length)} of ${counted(data.rows.length, "row")} on this page ` +
    `(the most confident errors, then the most uncertain rows); predictions.parquet has all ${count(evaluation.num_rows)}.${numbering}` +
    (data.temperature ? ` Probabilities here are before the temperature of ${data.temperature.toFixed(2)} that predict ` +
      "divides scores by; predictions.parquet also has them after it." : "");
  at("rows").replaceChildren(...rows.slice(0, limit).map(entry));
  at("more").hidden = rows.length <= limit;
}
function likeliest(row) {  // the labels with their probabilities; of many, the likeliest and the true one
  const numbers = evaluation.labels.map((_, i) => i), p = row.probabilities;
  const chosen = numbers.length <= 10 ? numbers :
    numbers.sort((a, b) => p[b] - p[a]).filter((label, place) => place < 5 || label === row.truth);
  return chosen.map((i) => `${evaluation.labels[i]} ${chance(p[i], 2)}`);
}
function entry(row) {
  const label = evaluation.labels[row.predicted];
  const details = element("details", {class: "row"}, element("summary", {},
    element("span", {class: "tag " + (wrong(row) ? "wrong" : "right")}, `${wrong(row) ? "✗" : "✓"} ${label} ${chance(sure(row))}`),
    wrong(row) ? element("span", {class: "tag soft truth"}, `true: ${evaluation.labels[row.truth]}`) : null,
    row.truncated ? element("span", {class: "tag soft"}, "truncated") : null,
    row.twin ? element("span", {class: "tag soft"}, "duplicate") : null,
    element("span", {}, row.text.slice(0, 200))));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    details.append(...textOf(row), element("p", {class: "soft"},
      `Row ${count(row.number)}, true label ${evaluation.labels[row.truth]}. ` +
      likeliest(row).join(", ") +
      (row.base === undefined ? "" : `; base without adapter: ${evaluation.labels[row.base]}`) +
      (row.baseline === undefined ? "" : `; TF-IDF: ${evaluation.labels[row.baseline]}`) +
      (row.twin ? `; similar to ${twinRow(row.twin)} (${percent(row.twin.similarity, 0)})` : "")));
  });
  return details;
}
for (const id of ["search", "kind", "truth", "sort", "cut", "twin"])
  at(id).addEventListener("input", () => { limit = 50; show(); });
at("more").addEventListener("click", () => { limit += 100; show(); });
show();

for (const [name, value] of Object.entries(data.made)) at("versions").append(
  element("dt", {class: "soft"}, name), element("dd", {}, value));
if (data.recipe) at("recipe").textContent = data.recipe; else at("recipe-details").remove();
at("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.body).backgroundColor === "rgb(20, 22, 26)";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
