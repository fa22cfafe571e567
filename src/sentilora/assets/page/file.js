// The panel for a file: which column, progress, the table of results, and the download.
import {call} from "./api.js";
import {answerBlock, isUncertain, readAnswer, tag} from "./answer.js";
import {attempt, cancelIn} from "./attempt.js";
import {FileProblem, guessTextColumn, readTable, write} from "./csv.js";
import {at, barLine, button, count, counted, download, element, select, share, wordsOf} from "./dom.js";
import {addToReview} from "./review.js";

const MAX_BYTES = 50e6, BATCH_ROWS = 32, BATCH_CHARACTERS = 60_000, SHOWN_ROWS = 50, LEAST_CERTAIN = 20;
const DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"};
let session = null, job = null;  // {name, bytes, table, columns; model, results, next: number of the next row}

const inputOf = (row) => {  // the text is in the first of the columns
  const cells = job.columns.map((i) => row[i] ?? ""), {fields} = session.model;
  return fields ? Object.fromEntries(fields.map((name, i) => [name, cells[i]])) : cells[0];
};
const sizeOf = (input) => JSON.stringify(input).length;

function hideResults() {
  at("results-box").hidden = at("progress-box").hidden = true;
}

async function open(file) {
  job = null;
  hideResults();
  at("file-settings").replaceChildren();
  await attempt(at("file-status"), "Reading the file …", async () => {
    if (file.size > MAX_BYTES) throw new FileProblem(`This file has ${count(Math.round(file.size / 1e6))} MB, too many for a browser. Use sentilora predict.`);
    job = {name: file.name, bytes: new Uint8Array(await file.arrayBuffer()), table: null};
    setUp(null);
  });
}

function setUp(hasHeader) {
  job.table = readTable(job.bytes, {hasHeader, isLines: /\.txt$/i.test(job.name)});
  chooseColumns();
}

function chooseColumns() {
  if (!job?.table) return;
  cancelIn(at("file-status"));
  const {names, rows} = job.table;
  job.columns = (session.model.fields ?? [null]).map((name) => guessTextColumn(names, rows, name));
  hideResults();
  showSettings();
}

function showSettings() {
  const {names, rows, encoding, delimiter} = job.table, titles = session.model.fields ?? ["Text in column"];
  const preview = element("ol", {class: "preview"});
  const showPreview = () => preview.replaceChildren(...rows.slice(0, 3).map((row) =>
    element("li", {}, job.columns.map((i) => (row[i] ?? "").slice(0, 200)).join(" · ") || "(empty)")));
  showPreview();
  at("drop").classList.add("compact");
  at("file-settings").replaceChildren(
    element("p", {}, element("strong", {class: "wrap"}, job.name), element("span", {class: "soft"}, ` · ${counted(rows.length, "row")}, ${encoding}` +
      (names.length > 1 ? `, ${DELIMITER_NAMES[delimiter] ?? delimiter} between columns` : ""))),
    encoding === "Windows-1252" ? element("p", {class: "notice"}, "The file is not UTF-8, so it was read as Windows-1252. Check that the preview reads well.") : "",
    element("div", {class: "fields"}, titles.map((title, i) => select(title, names.map((name, n) => [n, name]), job.columns[i],
      (value) => { job.columns[i] = +value; showPreview(); })),
      element("label", {class: "check"}, element("input", {type: "checkbox", checked: job.table.hasHeader,
        onchange: (event) => attempt(at("file-status"), "Reading the file …", async () => setUp(event.target.checked))}), " First row names the columns")),
    element("p", {class: "gloss"}, "First texts:"), preview,
    element("div", {class: "actions"}, button(`Classify ${counted(rows.length, "row")}`, classifyAll, {class: "primary", id: "classify-file"})));
}

function nextBatch() {  // numbers of the next rows, within the limits of a request; empty texts are answered here
  const {rows} = job.table, numbers = [];
  let characters = 0, next = job.next;
  for (; next < rows.length && numbers.length < BATCH_ROWS; next++) {
    const input = inputOf(rows[next]);
    if (!(rows[next][job.columns[0]] ?? "").trim()) { job.results[next] = {reason: `${job.table.names[job.columns[0]]} is missing`}; continue; }
    if (numbers.length && characters + sizeOf(input) > BATCH_CHARACTERS) break;
    characters += sizeOf(input);
    numbers.push(next);
  }
  return {numbers, next};
}

// One bad row must not cost the others of its batch theirs: a batch that is refused is halved.
async function classifyBatch(own, numbers, options) {
  const inputs = numbers.map((number) => inputOf(own.table.rows[number]));
  try {
    const {data} = await call("v1/classify", {...options, body: {model: own.model.id, input: inputs}});
    for (const item of data) own.results[numbers[item.index]] = {answer: readAnswer(item)};
  } catch (failure) {
    if (![400, 413, 422].includes(failure.status)) throw failure;
    if (numbers.length === 1) { own.results[numbers[0]] = {reason: failure.message}; return; }
    const half = Math.ceil(numbers.length / 2);
    await classifyBatch(own, numbers.slice(0, half), options);
    await classifyBatch(own, numbers.slice(half), options);
  }
}

function showProgress(began, before) {
  const total = job.table.rows.length, rate = (job.next - before) / ((performance.now() - began) / 1000), left = (total - job.next) / rate;
  at("progress").value = job.next / total;
  at("progress-text").textContent = `${count(job.next)} of ${counted(total, "row")}` + (job.next < total && rate > 0
    ? ` · ${rate.toFixed(rate < 10 ? 1 : 0)} a second · ${left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`} left` : "");
}

function classifyAll() {
  const twice = addedColumns(session.model, [{}]).find((name) => job.table.names.includes(name));
  if (twice) return attempt(at("file-status"), "", async () => { throw new FileProblem(`The file already has a column ${twice}, which the answers would add. Rename it.`); });
  Object.assign(job, {results: [], next: 0, numQueued: 0, model: session.model, filter: "all", order: "file", limit: SHOWN_ROWS});
  at("results-box").hidden = true;
  return goOn();
}

function goOn() {  // from the first row that is not done
  const own = job, start = at("classify-file");
  at("progress-box").hidden = false;
  return attempt(at("file-status"), "Classifying …", async (options) => {
    const began = performance.now(), before = own.next;
    start.disabled = true;
    try {
      showProgress(began, before);
      while (own.next < own.table.rows.length) {
        const {numbers, next} = nextBatch();
        if (numbers.length) await classifyBatch(own, numbers, options);
        own.next = next;
        options.onWait("Classifying …");
        showProgress(began, before);
      }
      addUncertain();
    } finally {
      start.disabled = false;
      if (job === own && own.model === session.model) showResults();
    }
    at("results-title").scrollIntoView({block: "nearest"});
  });
}

function addUncertain() {  // the abstained and the uncertain, and of any file the least certain
  const answered = job.results.flatMap(({answer}, number) => (answer ? [{answer, number}] : []));
  const chosen = answered.sort((a, b) => a.answer.lead - b.answer.lead)
    .filter(({answer}, place) => place < LEAST_CERTAIN || isUncertain(answer));
  job.numQueued = chosen.length;
  addToReview(chosen.map(({answer, number}) => ({answer, model: job.model, input: inputOf(job.table.rows[number])})));
}

// --- the results

const kindOf = ({answer}) => (!answer ? "no answer" : answer.abstained ? "abstained" : `label: ${answer.label}`);

function summary(counts, total) {
  const entries = [...counts].sort((a, b) => b[1] - a[1]);
  return element("ol", {class: "bars"}, entries.map(([kind, num]) => barLine(kind.replace("label: ", ""),
    `${count(num)} (${share(num, total)})`, num / total, ...({abstained: ["withheld", "unsure"], "no answer": ["failed", "bad"]}[kind] ?? ["adapter"]))));
}

function resultRow({answer, reason, number}) {
  const text = wordsOf(inputOf(job.table.rows[number]));
  const open = button(text.trim() ? text : "(empty)", () => {
    const isOpen = open.getAttribute("aria-expanded") === "true";
    open.setAttribute("aria-expanded", !isOpen);
    if (isOpen) line.nextSibling.remove();
    else line.after(element("tr", {class: "details"}, element("td", {colspan: 3}, answer ? answerBlock(answer, job.model) : element("p", {}, reason))));
  }, {class: "clamped", "aria-expanded": "false"});
  const line = element("tr", {}, element("td", {class: "soft"}, count(number + 1)), element("td", {}, open),
    element("td", {}, answer ? tag(answer) : element("span", {class: "tag failed"}, "no answer"),
      answer?.truncated ? [" ", element("span", {class: "tag soft"}, "truncated")] : null));
  return line;
}

function showResults() {
  const done = job.results.flatMap((result, number) => (result ? [{...result, number}] : []));
  const counts = new Map(), total = job.table.rows.length;
  for (const result of done) counts.set(kindOf(result), (counts.get(kindOf(result)) ?? 0) + 1);
  const chosen = done.filter((result) => job.filter === "all" || kindOf(result) === job.filter);
  if (job.order === "least") chosen.sort((a, b) => (a.answer?.lead ?? -1) - (b.answer?.lead ?? -1));
  const again = (name) => (value) => { job[name] = value; job.limit = SHOWN_ROWS; showResults(); };
  at("results-box").hidden = !done.length;
  at("results").replaceChildren(
    done.length < total ? element("p", {class: "notice"}, `${count(done.length)} of ${counted(total, "row")} are done. `,
      button("Continue", goOn)) : "",
    summary(counts, done.length),
    job.numQueued ? element("p", {class: "gloss"}, `The ${counted(job.numQueued, "least certain row")} ${job.numQueued === 1 ? "is" : "are"} in the review queue.`) : "",
    element("div", {class: "fields"},
      select("Show", [["all", "all answers"], ...[...counts.keys()].map((kind) => [kind, kind])], job.filter, again("filter")),
      select("Order", [["file", "as in the file"], ["least", "least certain first"]], job.order, again("order")),
      button("Download CSV", save, {class: "primary"})),
    element("table", {}, element("thead", {}, element("tr", {}, ["Row", "Text", "Answer"].map((name) => element("th", {scope: "col"}, name)))),
      element("tbody", {}, chosen.slice(0, job.limit).map(resultRow))),
    chosen.length > job.limit ? button(`Show more of ${count(chosen.length)}`, () => { job.limit += SHOWN_ROWS; showResults(); }) : "");
}

// The columns of `sentilora predict --output`, after the file's own; `reason` if a row has no answer.
function addedColumns({labels}, results) {
  return ["prediction", ...labels.map((label) => `probability_${label}`), "truncated", ...(results.some(({answer}) => !answer) ? ["reason"] : [])];
}

function save() {
  const {names, rows, delimiter} = job.table, {labels} = job.model;
  const results = rows.map((_, number) => job.results[number] ?? {reason: "not classified"});
  const added = addedColumns(job.model, results);
  const lines = results.map(({answer, reason}, number) => [...names.map((_, i) => rows[number][i] ?? ""),
    ...(answer ? [answer.abstained ? "abstain" : answer.label, ...labels.map((label) => answer.probabilities[label]), answer.truncated ? "True" : "False", ""]
      : ["", ...labels.map(() => ""), "", reason]).slice(0, added.length)]);
  download(job.name.replace(/\.[^.]*$/, "") + "-labeled.csv", new Blob([write([[...names, ...added], ...lines], delimiter)], {type: "text/csv"}));
}

export function startFile(shared) {
  session = shared;
  const drop = at("drop"), isFile = (event) => event.dataTransfer?.types.includes("Files");
  at("file").addEventListener("change", () => {
    if (at("file").files.length) open(at("file").files[0]);
    at("file").value = "";
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) document.addEventListener(kind, (event) => {
    if (!isFile(event)) return;
    event.preventDefault();  // a file beside the box must not replace the page
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind !== "drop" || !event.dataTransfer.files.length) return;
    at("file-tab").click();
    open(event.dataTransfer.files[0]);
  });
  session.onChoice(chooseColumns);
}
