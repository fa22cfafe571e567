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
const small = (p) => p === 0 ? "< 1e-300" : p < 0.001 ? p.toExponential(1) : p.toFixed(3);
const main = evaluation.adapter || evaluation.base, NS = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}
function table(id, head, rows) {
  if (!rows.length) return;
  at(id).append(element("thead", {}, element("tr", {}, ...head.map((x) => element("th", {scope: "col"}, x)))),
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
at("interval").textContent = "accuracy; 95 % Wilson interval " +
  main.accuracy_interval.map((v) => percent(v)).join(" – ");
at("verdict").textContent = evaluation.verdict || "";
for (const reason of evaluation.missing) at("notes").append(element("div", {}, sentence(reason)));
const models = [["fine-tuned", evaluation.adapter], ["base without adapter", evaluation.base], ["TF-IDF", evaluation.baseline]];
if (evaluation.calibrated) models.splice(1, 0, [`… at temperature ${evaluation.calibrated.temperature.value.toFixed(2)}`,
  evaluation.calibrated.test]);
const metric = (value) => value === null ? "–" : value.toFixed(4);
table("models", ["", "accuracy", "95 % interval", "macro-F1", "log-loss", "Brier", "ROC-AUC", "ECE"],
  models.filter((model) => model[1]).map(([name, m]) => [name, percent(m.accuracy, 2),
    m.accuracy_interval.map((v) => percent(v)).join(" – "), metric(m.macro_f1), m.log_loss.toFixed(4),
    m.brier.toFixed(4), metric(m.roc_auc),
    m.expected_calibration_error.toFixed(4)]));
const against = {base: "against its base without adapter", baseline: "against TF-IDF + logistic regression"};
table("differences", ["fine-tuned …", "points", "95 % interval", "only it right", "only other right", "exact McNemar p"],
  Object.entries(evaluation.comparisons).map(([name, c]) => [against[name], points(c.difference),
    c.interval.map(points).join(" to "), count(c.num_only_first), count(c.num_only_second), small(c.p)]));

// --- confusion
{ const n = evaluation.labels.length, S = Math.max(44, Math.min(90, 320 / n)), L = 124;
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

table("lengths", ["", "rows", "accuracy", "95 % interval"], data.groups.map((g) => [
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
  table("ratings", ["", "rows", "accuracy", "95 % interval"], evaluation.ratings.groups.map((g) => [g.name, count(g.num_rows),
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

