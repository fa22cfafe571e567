"use strict";
const data = JSON.parse(document.getElementById("data").textContent), evaluation = data.evaluation;
const at = (id) => document.getElementById(id);
// a share below 1 never reads 100 %, and neither does a probability, however it was rounded
const percent = (x, digits = 1) => (x < 1 ? Math.min(100 * x, 100 - 0.1 ** digits) : 100 * x).toFixed(digits) + " %";
const chance = (p, digits = 1) => percent(Math.min(p, 1 - 1e-9), digits);
const points = (x) => (x < 0 ? "−" : "+") + Math.abs(100 * x).toFixed(1);
const count = (x) => x.toLocaleString("en-US");
const counted = (x, noun) => `${count(x)} ${noun}${x === 1 ? "" : "s"}`;
const numbering = " Rows are numbered from 0, as in their source.";
const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.…]$/.test(text) ? "" : ".");
const scale = data.temperature ? ` at temperature ${data.temperature.toFixed(2)}` : "";
const twinRow = (twin) => `${twin.split === "train" ? "training" : twin.split} row ${count(twin.other)}`;
const main = evaluation.adapter || evaluation.base, NS = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}
function table(id, head, rows) {
  if (!rows.length) return;
  const heading = (x) => typeof x === "string" ? [x] : [x[0], element("small", {}, x[1])];  // a term and its gloss
  at(id).append(element("thead", {}, element("tr", {}, ...head.map((x) => element("th", {scope: "col"}, ...heading(x))))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((x) => element("td", {}, x))))));
}
function foldedList(title, rows) {  // of [tag, note, text or texts]
  return element("details", {class: "failed"}, element("summary", {}, title), ...rows.map(([tag, note, ...texts]) =>
    element("p", {}, element("span", {class: "tag wrong"}, tag), element("span", {class: "soft"}, ` ${note}: `), ...texts)));
}
function shape(svg, name, attributes, text = null) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  svg.append(node);
  return node;
}
function ticks([low, high], least = 0) {  // round numbers, 1, 2 or 5 times a power of ten apart
  const raw = Math.max(least, (high - low) / 5 * (1 - 1e-9)), power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((n) => n * power >= raw), values = [];
  for (let i = Math.ceil(low / step - 1e-9) + 0; i * step <= high + step * 1e-9; i++) values.push(i * step);
  return values;
}
function plot(id, {x, y, xName, yName, caption, label, xTicks = ticks(x), xFormat = (v) => percent(v, 0)}) {
  const W = 430, H = 270, L = 62, R = 24, T = 16, B = 40;
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`); svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const px = (v) => L + (v - x[0]) / (x[1] - x[0]) * (W - L - R);
  const py = (v) => H - B - (v - y[0]) / (y[1] - y[0]) * (H - T - B);
  for (const v of ticks(y)) {
    shape(svg, "line", {x1: L, x2: W - R, y1: py(v), y2: py(v), stroke: "var(--line)"});
    shape(svg, "text", {x: L - 6, y: py(v) + 4, "text-anchor": "end"}, percent(v, 0));
  }
  for (const v of xTicks) {
    shape(svg, "line", {x1: px(v), x2: px(v), y1: H - B, y2: H - B + 4, stroke: "var(--line)"});
    shape(svg, "text", {x: px(v), y: H - B + 17, "text-anchor": "middle"}, xFormat(v));
  }
  shape(svg, "line", {x1: L, x2: W - R, y1: H - B, y2: H - B, stroke: "var(--line)"});
  shape(svg, "text", {x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle"}, xName);
  shape(svg, "text", {x: -(H - B) / 2, y: 12, transform: "rotate(-90)", "text-anchor": "middle"}, yName);
  at(id).append(svg, element("figcaption", {}, caption));
  const line = (values, color, dash = "") => values.length === 1 ?  // a single value makes no line
    shape(svg, "circle", {cx: px(values[0][0]), cy: py(values[0][1]), r: 4, fill: color}) :
    shape(svg, "polyline", {fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": dash,
      points: values.map(([a, b]) => `${px(a)},${py(b)}`).join(" ")});
  return {svg, px, py, line};
}

// --- headline and comparisons
document.title = `${percent(main.accuracy)} – ${data.title}`;
at("title").textContent = data.title;
at("subtitle").textContent = `${counted(evaluation.num_rows, "row")} of ${evaluation.test}; ${data.created}`;
at("accuracy").textContent = percent(main.accuracy);
const range = (bounds, digits = 1) => bounds.map((v) => percent(v, digits)).join(" – ");
const share = (value) => value === null ? "–" : percent(value);
const withCode = (text) => text.split("`").map((part, i) => i % 2 ? element("code", {}, part) : part);
const unbroken = (bounds) => element("span", {class: "whole"}, range(bounds));
at("interval").append("accuracy: the share of rows answered correctly; 95 % Wilson interval ", unbroken(main.accuracy_interval));
if (evaluation.warning) at("banner").append(evaluation.warning); else at("banner").remove();
const majority = evaluation.majority;
function rival(id, accuracy, interval, note) {  // a figure beside the large one
  document.querySelector(".scores").append(element("div", {id, class: "rival"}, element("div", {class: "big"}, percent(accuracy)),
    element("div", {}, `${note}; `, unbroken(interval))));
}
if (evaluation.baseline) rival("baseline-score", evaluation.baseline.accuracy, evaluation.baseline.accuracy_interval,
  "TF-IDF + logistic regression on the same labels, the figure to beat");
else if (evaluation.adapter) rival("base-score", evaluation.base.accuracy, evaluation.base.accuracy_interval, "base without adapter");
if (!evaluation.baseline) at("baseline-note").remove();
if (majority) rival("majority-score", majority.accuracy, majority.interval, `always “${majority.label}”`);
at("verdict").textContent = evaluation.verdict || "";
if (evaluation.next_steps.length) at("next").append(...evaluation.next_steps.map((step) => element("li", {}, ...withCode(step))));
else at("next-section").remove();
for (const reason of evaluation.missing) at("notes").append(element("div", {}, sentence(reason)));
const models = [["fine-tuned", evaluation.adapter], ["base without adapter", evaluation.base], ["TF-IDF", evaluation.baseline]];
if (evaluation.calibrated) models.splice(1, 0, [`… at temperature ${evaluation.calibrated.temperature.value.toFixed(2)}`,
  evaluation.calibrated.test]);
const metric = (value) => value === null ? "–" : value.toFixed(4);
const interval = ["95 % interval", "where it very likely lies for all such texts"];
const modelRows = models.filter((model) => model[1]).map(([name, m]) => [name, percent(m.accuracy, 2),
  range(m.accuracy_interval), metric(m.macro_f1), m.log_loss.toFixed(4), m.brier.toFixed(4), metric(m.roc_auc),
  m.expected_calibration_error.toFixed(4)]);
if (majority) {
  modelRows.push(["majority", percent(majority.accuracy, 2), range(majority.interval), ..."–––––"]);
  at("majority-note").textContent = `Majority: always answering “${majority.label}”, the most frequent label of the ` +
    `${majority.counted_in} rows.`;
}
table("models", ["", ["accuracy", "share answered correctly"], interval, ["macro-F1", "mean F1 of the labels; 1 is best"],
  ["log-loss", "penalty for confident errors; 0 is best"], ["Brier", "squared error of probabilities; 0 is best"],
  ["ROC-AUC", "ranking; 0.5 is guessing, 1 is best"], ["ECE", "gap between probability and accuracy; 0 is best"]], modelRows);
const against = {base: "against its base without adapter", baseline: "against TF-IDF + logistic regression"};
const compared = Object.entries(evaluation.comparisons);
table("differences", ["fine-tuned …", ["points", "difference in accuracy, in percentage points"],
  ["95 % interval", "where the difference very likely lies"], ["only it right", "rows that the other gets wrong"],
  ["only other right", "rows that it gets wrong"], ["exact McNemar p", "how probable such a split is if both are equally good"]],
  compared.map(([name, c]) => [against[name], points(c.difference),
    c.interval.map(points).join(" to "), count(c.num_only_first), count(c.num_only_second), data.p_values[name]]));
if (!compared.length) at("criterion").remove();
else at("disagreement").textContent = Object.entries(data.disagreements).map(([name, sentence]) =>
  `${sentence.replace(/^The interval/, `The interval ${against[name]}`)}`).join(" ");
const small = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(4);
const withInterval = (x) => element("span", {}, element("span", {class: "whole"}, small(x.difference)), " ",
  element("span", {class: "whole soft"}, x.interval.map(small).join(" to ")));
const differing = Object.entries(evaluation.differences);
table("probabilities", ["fine-tuned …", ["log-loss", "difference, and its 95 % interval"], ["Brier", "the same"], ["ECE", "the same"]],
  differing.map(([name, d]) => [against[name], ...[d.log_loss, d.brier, d.expected_calibration_error].map(withInterval)]));
if (!differing.length) at("probabilities-note").remove();
if (evaluation.required.length) table("required", ["bound", "seen", ""], evaluation.required.map((r) => [r.bound,
  r.finding, element("span", {class: `tag ${r.is_met ? "right" : "wrong"}`}, r.is_met ? "met" : "not met")]));
else at("required-section").remove();

// --- labels
const MANY = 20, hasMany = evaluation.labels.length > MANY;
if (evaluation.per_label.length) {
  const weakest = hasMany ? [...evaluation.per_label].sort((a, b) => (a.f1 ?? 2) - (b.f1 ?? 2)) : evaluation.per_label;
  at("labels-note").textContent = "How well each label is recognized" + (hasMany ? `: all ${evaluation.labels.length}, the lowest F1 first.` : ".");
  if (hasMany) for (const [key, value] of [["class", "wide tall"], ["tabindex", 0], ["role", "region"], ["aria-label", "Labels"]])
    at("labels-box").setAttribute(key, value);
  table("per-label", ["label", ["rows", "that have it"], ["answers", "rows answered with it"],
    ["precision", "share of these answers that are right"], ["recall", "share of these rows that are recognized"],
    ["95 % interval", "of the recall"], ["F1", "precision and recall in one; 1 is best"], ["taken for", "most often, and in how many rows"]],
    weakest.map((l) => [l.label, count(l.num_rows), count(l.num_answers), share(l.precision), share(l.recall),
      l.recall_interval ? range(l.recall_interval) : "–", metric(l.f1), l.confused_with === null ? "–" : `${l.confused_with} (${count(l.num_confused)})`]));
} else at("labels-section").remove();

// --- confusion
if (hasMany) {
  at("confusion-title").textContent = "Most frequent confusions";
  at("confusion").append(element("table", {id: "confusions"}), element("figcaption", {}, "A matrix of " +
    `${evaluation.labels.length} labels would be too small to read; report.json has it.`));
  table("confusions", ["true label", "answered", "rows"], data.confusions.map((c) => [c.truth, c.answer, count(c.num_rows)]));
} else { const n = evaluation.labels.length, S = Math.max(44, Math.min(90, 320 / n)), L = 124;
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${L + n * S} ${n * S + 42}`); svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Confusion matrix"); svg.style.maxWidth = L + n * S + "px";
  const name = (place, label, most) => {  // a longer label is cut; hovering shows all of it
    const letters = Array.from(label), isLong = letters.length > most;
    const text = shape(svg, "text", place, isLong ? letters.slice(0, most - 1).join("") + "…" : label);
    if (isLong) shape(text, "title", {}, label);
  };
  main.confusion.forEach((row, i) => {
    const total = row.reduce((a, b) => a + b, 0) || 1;
    name({x: L - 8, y: i * S + S / 2 + 4, "text-anchor": "end"}, evaluation.labels[i], 15);
    row.forEach((value, j) => {
      shape(svg, "rect", {x: L + j * S, y: i * S, width: S - 2, height: S - 2, class: "cell",
        "fill-opacity": 0.06 + 0.74 * value / total});
      shape(svg, "text", {x: L + j * S + S / 2, y: i * S + S / 2 + 5, "text-anchor": "middle",
        style: "fill:var(--ink);font-size:14px"}, count(value)); }); });
  evaluation.labels.forEach((label, j) => name({x: L + j * S + S / 2, y: n * S + 16, "text-anchor": "middle"}, label, S / 7));
  shape(svg, "text", {x: L + n * S / 2, y: n * S + 36, "text-anchor": "middle"}, "predicted label");
  shape(svg, "text", {x: -n * S / 2, y: 12, transform: "rotate(-90)", "text-anchor": "middle"}, "true label");
  at("confusion").append(svg, element("figcaption", {}, "The shade of a cell shows its share of the rows with that true label.")); }

// --- reliability, coverage, training
{ const low = Math.floor(Math.min(0.5, ...data.reliability.map((b) => Math.min(b.accuracy, b.low))) * 10) / 10;
  const caution = evaluation.calibrated && evaluation.calibrated.temperature.caution;
  const {svg, px, py, line} = plot("reliability", {x: [low, 1], y: [low, 1], xName: "probability of the answer",
    yName: "accuracy", label: "Reliability diagram", caption: "One point per range of probability; its area shows the " +
      "number of rows. On the dashed line, accuracy equals probability. " +
      `Expected calibration error ${main.expected_calibration_error.toFixed(4)}.` + (caution === null ? "" : " " + sentence(caution))});
  line([[low, low], [1, 1]], "var(--base)", "4 4");
  const most = Math.max(...data.reliability.map((b) => b.num_rows));
  for (const b of data.reliability) shape(svg, "circle", {cx: px(b.mean_confidence), cy: py(b.accuracy),
    r: 3 + 9 * Math.sqrt(b.num_rows / most), fill: "var(--adapter)", "fill-opacity": 0.75}).append(
      Object.assign(document.createElementNS(NS, "title"),
        {textContent: `${counted(b.num_rows, "row")}, mean probability ${percent(b.mean_confidence)}, accuracy ${percent(b.accuracy)}`})); }
function coverageCaption() {
  if (evaluation.abstention === null) return `With all rows answered: ${percent(main.accuracy)}.`;
  const {threshold, num_covered, accuracy} = evaluation.abstention, target = percent(threshold.target_accuracy);
  if (threshold.bound < threshold.target_accuracy) return `No threshold is certain to reach the target of ${target}: the ` +
    `highest 95 % lower bound on the evaluation rows is ${percent(threshold.bound)}` + (accuracy === null ? "." : " (point).");
  const which = threshold.confidence ? `a probability of at least ${chance(threshold.confidence, 2)}${scale}` : "any probability";
  return `For the target of ${target}, answers with ${which} are given: ${percent(num_covered / evaluation.num_rows)} of the rows` +
    (accuracy === null ? "." : `, ${percent(accuracy, 2)} of them correctly (point).`);
}
{ const low = Math.min(main.accuracy, ...data.coverage.map((c) => c.accuracy));
  const {px, py, svg, line} = plot("coverage", {x: [0, 1], y: [Math.floor(Math.min(0.95, low) * 20) / 20, 1],
    xName: "coverage (share of rows answered)", yName: "accuracy of these answers", label: "Coverage–accuracy curve",
    caption: "Accuracy when only the most confident answers are given. " + coverageCaption()});
  line(data.coverage.map((c) => [c.coverage, c.accuracy]), "var(--adapter)");
  const abstention = evaluation.abstention;
  if (abstention && abstention.accuracy !== null) shape(svg, "circle", {cx: px(abstention.num_covered / evaluation.num_rows),
    cy: py(abstention.accuracy), r: 6, fill: "var(--baseline)"}); }
if (evaluation.survivors.length) {
  at("survivors-note").textContent = `${counted(main.num_rows - main.confusion.reduce((n, row, i) => n + row[i], 0), "wrong answer")}` +
    `; probabilities${scale || " are the model’s own"}${scale ? ", as predict gives them" : ""}`;
  table("survivors", ["confidence", ["coverage", "rows at least this sure"], ["wrong", "of these answers"],
    ["share wrong", "of these answers"], ["survive", "of all wrong answers"]],
    evaluation.survivors.map((s) => [percent(s.confidence, 0), percent(s.coverage), count(s.num_wrong),
      s.share_wrong === null ? "–" : percent(s.share_wrong, 2), share(s.share_of_wrong)]));
} else at("survivors-section").remove();
if (evaluation.label_sets.length) {
  at("sets-note").textContent = `Chosen on ${counted(evaluation.label_sets[0].num_evaluation, "evaluation row")}, measured on the test rows.`;
  table("sets", ["aimed at", ["coverage", "sets with the true label"], ["95 % interval", "of the coverage"],
    ["mean size", "labels in a set"], ["one label", "share of the sets"]],
    evaluation.label_sets.map((s) => [percent(s.target, 0), percent(s.coverage), unbroken(s.interval), s.mean_size.toFixed(2),
      percent(s.share_single)]));
} else at("sets-section").remove();
{ const ordered = Object.entries(evaluation.ordered), names = {adapter: "fine-tuned", base: "base without adapter", baseline: "TF-IDF"};
  if (ordered.length) {
    at("ordered-note").textContent = `From ${evaluation.labels[0]} to ${evaluation.labels.at(-1)}; the mean of the true labels is ` +
      `${ordered[0][1].mean_value.toFixed(2)}.`;
    table("ordered", ["", ["MAE", "how far answers are off"], ["expected MAE", "how far expected values are off"],
      ["mean", "of the expected values"], ["quadratic kappa", "1 is best, 0 is chance"]],
      ordered.map(([name, o]) => [names[name], o.mean_absolute_error.toFixed(4), o.expected_value_error.toFixed(4),
        o.mean_expected_value.toFixed(4), metric(o.quadratic_kappa)]));
  } else at("ordered-section").remove(); }
if (data.training.length) {
  const steps = data.training.map((t) => t.step), evals = data.training.filter((t) => t.eval_accuracy !== undefined);
  const losses = data.training.filter((t) => t.loss !== undefined);
  const x = [0, Math.max(...steps)];
  const {line} = plot("training", {x, y: [0, 1], xTicks: ticks(x, 1), xFormat: count, xName: "optimizer step",
    yName: "accuracy; relative loss", label: "Training curve", caption: "Solid: accuracy on the evaluation " +
      "rows. Dashed: their log-loss. Dotted: training loss. Losses are relative to their maximum; a single value is a point."});
  line(evals.map((t) => [t.step, t.eval_accuracy]), "var(--adapter)");
  const scaled = (rows, key) => { const top = Math.max(...rows.map((t) => t[key]));
    return rows.map((t) => [t.step, t[key] / top]); };
  if (evals.length) line(scaled(evals, "eval_log_loss"), "var(--baseline)", "5 4");
  if (losses.length) line(scaled(losses, "loss"), "var(--base)", "2 3");
} else at("training-section").remove();

if (evaluation.calibrated) at("temperature-note").textContent = " A temperature is a number that scores are divided by to bring " +
  `them closer to that; here ${evaluation.calibrated.temperature.value.toFixed(2)}.`;
table("lengths", ["", "rows", "accuracy", interval], data.groups.map((g) => [
  {whole: "whole texts", truncated: "truncated texts"}[g.name] || g.name, count(g.num_rows),
  percent(g.accuracy), g.interval.map((v) => percent(v)).join(" – ")]));
{ const leak = evaluation.leakage;
  at("leakage").append(leak === null ? "Not searched for." + (evaluation.adapter === null ? "" :
    " The rows that the adapter was trained on are unavailable.") :
    `Test rows that duplicate training or evaluation rows: ${count(leak.num_exact)} exact, ` +
    (leak.near_looked_for ? `${count(leak.num_near)} near` : "near-duplicates not searched for") + "." +
    (leak.without && leak.twins.length ?
      ` Accuracy without them: ${percent(leak.without.accuracy, 2)} on ${counted(leak.without.num_rows, "row")}.` : "") +
    ` Evaluation rows that duplicate training rows: ${count(leak.num_evaluation_exact)} exact` +
    (leak.near_looked_for ? `, ${count(leak.num_evaluation_twins - leak.num_evaluation_exact)} near.` : ".") +
    (leak.twins.length ? numbering : ""));
  const near = leak === null ? [] : leak.twins.filter((twin) => !twin.is_exact).slice(0, 50);
  if (near.length) at("leakage").append(foldedList(`Near-duplicates: ${near.length < leak.num_near ? "the most similar " : ""}` +
    `${near.length}`, near.map((twin) => [percent(twin.similarity, 0), `row ${count(twin.number)}, similar to ${twinRow(twin)}`,
      element("div", {}, data.begins.test[twin.number]),
      element("div", {class: "soft"}, `${twinRow(twin)}: ${data.begins[twin.split][twin.other]}`)]))); }

if (evaluation.ratings) {
  at("ratings-title").textContent = `Accuracy by ${evaluation.ratings.column}`;
  table("ratings", ["", "rows", "accuracy", interval], evaluation.ratings.groups.map((g) => [g.name, count(g.num_rows),
    percent(g.accuracy), g.interval.map((v) => percent(v)).join(" – ")]));
  if (evaluation.ratings.num_without) at("ratings-note").textContent = `Rows without a rating: ${count(evaluation.ratings.num_without)}.`;
} else at("ratings-section").remove();

// --- labels that are probably wrong
if (evaluation.label_issues) {
  const {issues, num_issues, num_rows, num_seen} = evaluation.label_issues;
  at("issues-note").textContent = `${count(num_issues)} of ${counted(num_rows, "row")}, by confident learning. ` +
    "A listed row is worth a look, not a verdict: the model may be wrong, not the label. " +
    (num_seen === null ? "Which rows were trained on is unknown, and label errors in those go unnoticed." :
      `Left out as seen in training or model selection: ${count(num_seen)}.`) + numbering;
  if (issues.length) at("issues").append(foldedList((issues.length < num_issues ? "The likeliest " : "All ") +
    count(issues.length), issues.map((issue) => [`${issue.given} → ${issue.suggested} ` +
      chance(issue.probability_suggested), `row ${count(issue.number)}`, data.begins.test[issue.number]])));
} else at("issues-section").remove();

// --- behavior: pass rates, and the failures below them
if (evaluation.behaviour) {
  const {suite, num_cases, num_texts, seconds, findings} = evaluation.behaviour;
  const hasBase = findings[0].base_pass_rate !== null;
  const bar = (rate) => element("div", {class: "bar"}, element("div", {style: `width: ${100 * rate}%`}));
  table("behaviour", ["", "pass rate", "", "passed", "95 % interval", ...(hasBase ? ["base"] : []), "kind"],
    findings.map((f) => [f.capability, percent(f.pass_rate), bar(f.pass_rate),
      `${count(f.num_passed)} of ${count(f.num_cases)}`, f.interval.map((v) => percent(v)).join(" – "),
      ...(hasBase ? [percent(f.base_pass_rate)] : []), f.kind]));
  at("behaviour-note").textContent = `Suite ${suite}: ${counted(num_cases, "case")}, ${counted(num_texts, "text")}, scored in ` +
    `${seconds.toFixed(1)} s. Minimum functionality: the answer is the expected label. Invariance: a change leaves the ` +
    "answer the same. Directional: a change makes the label no less likely. A model that always gives the same answer " +
    "passes every invariance and directional test.";
  for (const f of findings.filter((f) => f.failures.length)) {
    const numFailed = f.num_cases - f.num_passed, numShown = f.failures.length;
    const details = element("details", {class: "failed"}, element("summary", {}, `${f.capability}: ${count(numFailed)} failed` +
      (numShown < numFailed ? `, ${numShown} shown` : "")));
    for (const {texts, expected, answers, probabilities} of f.failures) {
      const lines = texts.map((text, i) => {
        const label = texts.length > 1 && expected !== null ? expected : answers[i];
        const tag = element("span", {class: "tag " + (i === texts.length - 1 ? "wrong" : "soft")},
          `${label} ${chance(probabilities[i][evaluation.labels.indexOf(label)])}` +
          (texts.length === 1 ? `, not ${expected}` : ""));
        return element("div", {}, tag, " " + text);
      });
      details.append(element("p", {}, ...lines));
    }
    at("failures").append(details);
  }
} else at("behaviour-section").remove();
