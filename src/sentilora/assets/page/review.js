// The review queue: uncertain answers, labeled with the keys 1 to 9, exported for `sentilora train`.
import {request} from "./api.js";
import {attempt} from "./attempt.js";
import {at, bar, button, count, counted, download, element, lineOf, percent, select, wordsOf} from "./dom.js";
import {tag} from "./answer.js";

const MAX_QUEUE = 500, MAX_KEYS = 9;
let session = null, waiting = [], labeled = [], hasUnsaved = false;

const same = (a, b) => a.model.id === b.model.id && JSON.stringify(a.input) === JSON.stringify(b.input);
const ofModel = (items) => items.filter((item) => item.model.id === session.model.id);

// items: [{input, model, answer}]. The abstained and the least certain come first.
export function addToReview(items) {
  const fresh = items.filter((item) => ![...waiting, ...labeled].some((other) => same(item, other)));
  const [current] = ofModel(waiting);
  const others = [...waiting.filter((item) => item !== current), ...fresh]
    .sort((a, b) => b.answer.abstained - a.answer.abstained || a.answer.lead - b.answer.lead);
  waiting = [...(current ? [current] : []), ...others].slice(0, MAX_QUEUE);  // what is on the screen stays there
  show();
}

// The labels with keys: all in their order, or, of many, the likeliest.
const choices = ({model, answer}) => (model.labels.length <= MAX_KEYS ? model.labels
  : answer.ranked.slice(0, MAX_KEYS).map(([label]) => label));

async function save(item, label) {
  const hadFocus = at("review-card").contains(document.activeElement);
  const keep = () => {
    waiting = waiting.filter((other) => other !== item);
    labeled.unshift({...item, label});
    hasUnsaved ||= !session.review;
    show();
    if (hadFocus) at("review-card").focus();
  };
  if (!session.review) return keep();
  const {input, answer} = item, probabilities = Object.fromEntries(answer.ranked);
  await attempt(at("review-status"), "Storing the label …", async (options) => {
    await request("v1/review", {...options, body: {model: item.model.id, text: input, predicted: answer.label, label, probabilities}});
    keep();
  });
}

function skip(item) {  // to the end of the queue
  waiting = [...waiting.filter((other) => other !== item), item];
  show();
  at("review-card").focus();
}

function relabel(item) {
  labeled = labeled.filter((other) => other !== item);
  waiting = [item, ...waiting];
  show();
  at("review-card").focus();
}

function choice(item, label, number) {
  const p = item.answer.probabilities[label];
  return element("li", {}, button([element("kbd", {}, number), element("span", {class: "name"}, label),
    element("span", {class: "number"}, percent(p, 0)), bar(p)], () => save(item, label), {class: "choice"}));
}

const reading = (text) => element("p", {class: "reading", tabindex: 0}, text);  // a long one scrolls, by keyboard too

function card(item) {
  const {model, answer, input} = item, keyed = choices(item);
  const texts = typeof input === "string" ? reading(input)
    : Object.entries(input).map(([name, text]) => [element("h3", {}, name), reading(text)]).flat();
  const rest = model.labels.filter((label) => !keyed.includes(label));
  const others = [["", "Choose …"], ...rest.map((label) => [label, label])];
  return element("div", {},
    element("p", {class: "row-line"}, tag(answer), element("span", {class: "soft"}, `${count(ofModel(waiting).length)} to label`)), texts,
    element("ol", {class: "choices"}, keyed.map((label, i) => choice(item, label, i + 1))),
    rest.length ? select("Another label", others, "", (label) => label && save(item, label)) : null,
    element("div", {class: "actions"}, button("Skip", () => skip(item)), element("span", {class: "soft keys"}, "Keys ", element("kbd", {}, 1), " – ",
      element("kbd", {}, keyed.length), ", ", element("kbd", {}, "s"), " skips")));
}

const fileName = () => `review-${session.model.id.replace(/[^\w.-]+/g, "-")}.jsonl`;

function exportLabeled() {
  if (session.review) {
    return attempt(at("review-status"), "Fetching the stored labels …", async (options) =>
      download(fileName(), await (await request(`v1/review/export?model=${encodeURIComponent(session.model.id)}`, options)).blob()));
  }
  const lines = ofModel(labeled).map(({input, label}) =>
    JSON.stringify({...(typeof input === "string" ? {text: input} : input), label}) + "\n");
  download(fileName(), new Blob(lines, {type: "application/jsonl"}));
  hasUnsaved = false;
}

function show() {
  const items = ofModel(waiting), done = ofModel(labeled);
  at("review-count").hidden = !items.length;
  at("review-count").textContent = count(items.length);
  at("review-note").textContent = "Answers that abstained or were least certain. " + (session.review
    ? "Each text that you label is stored on the server, with its label." : "Texts and labels stay in this tab: export them before you close it.");
  at("review-card").replaceChildren(items.length ? card(items[0]) : element("p", {class: "empty"}, done.length
    ? "All labeled. Classify more texts, or export the labels below."
    : "Nothing to review yet. Classify a text or a file: uncertain answers come here."));
  at("labeled-box").hidden = !done.length && !session.review;
  at("labeled-title").textContent = done.length ? `Labeled (${count(done.length)})` : "Labeled";
  at("labeled-actions").replaceChildren(button(session.review ? "Export all stored labels (JSONL)" : `Export ${counted(done.length, "label")} (JSONL)`,
    exportLabeled, {class: "primary"}));
  at("labeled-how").textContent = `cat ${fileName()} >> rows.jsonl && sentilora train rows.jsonl`;
  at("labeled").replaceChildren(...done.slice(0, 100).map((item) => element("li", {class: "entry labeled"},
    element("span", {class: `tag ${item.label === item.answer.label ? "sure" : "changed"}`}, item.label),
    lineOf(item.input),
    button("Change", () => relabel(item), {class: "quiet", "aria-label": `Change the label of: ${wordsOf(item.input).slice(0, 60)}`}))));
}

function onKey(event) {  // only with the focus in the queue, so that no other typing labels anything
  const [item] = ofModel(waiting);
  if (!item || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const label = /^[1-9]$/.test(event.key) ? choices(item)[event.key - 1] : undefined;
  if (label === undefined && event.key !== "s") return;
  event.preventDefault();
  if (label === undefined) skip(item); else save(item, label);
}

export function startReview(shared) {
  session = shared;
  at("review-panel").addEventListener("keydown", onKey);
  addEventListener("beforeunload", (event) => { if (hasUnsaved) event.preventDefault(); });
  session.onChoice(show);
}
