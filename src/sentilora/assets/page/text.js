// The panel for one text: the form, the answer, examples, and this session's history.
import {call} from "./api.js";
import {answerBlock, explainBox, isUncertain, readAnswer, tag} from "./answer.js";
import {attempt} from "./attempt.js";
import {at, button, element, lineOf, wordsOf} from "./dom.js";
import {addToReview} from "./review.js";

const MAX_HISTORY = 50;
const past = [];
let session = null, latest = 0;

const fieldsOf = () => [...at("fields").querySelectorAll("textarea")];

function readInput() {
  const values = fieldsOf().map((field) => [field.name, field.value]);
  return session.model.fields ? Object.fromEntries(values) : values[0][1];
}

function fill(input) {
  for (const field of fieldsOf()) field.value = typeof input === "string" ? input : input[field.name];
}

function showFields() {
  const names = session.model.fields ?? [null], {examples} = session.model;
  const kept = fieldsOf().map((field) => field.value);
  at("fields").replaceChildren(...names.map((name, i) => {
    const field = element("textarea", {id: `field-${i}`, name: name ?? "text", rows: names.length > 1 ? 3 : 8,
      required: true, placeholder: name ? "" : "Paste or type a text …", "aria-label": name ? null : "Text to classify"});
    field.value = kept[i] ?? "";
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("text-form").requestSubmit();
    });
    return element("div", {}, name && element("label", {for: field.id}, name), field);
  }));
  at("examples-box").hidden = !examples.length;
  at("examples").replaceChildren(...examples.map((example) => button(wordsOf(example), () => {
    fill(example);
    at("text-form").requestSubmit();
  }, {class: "chip", title: wordsOf(example)})));
  at("compare-box").hidden = session.baseOf(session.model) === null;
}

function showHistory() {
  at("history-box").hidden = !past.length;
  at("history").replaceChildren(...past.map((entry) => element("li", {}, button([tag(entry.answer), lineOf(entry.input)], () => {
    session.choose(entry.model);
    fill(entry.input);
    show(entry);
    at("answer-title").scrollIntoView({block: "nearest"});
  }, {class: "entry"}))));
}

function show({input, model, answer, base, seconds}) {
  const note = `${Math.max(1, Math.round(1000 * seconds))} ms`;
  const block = answerBlock(answer, model, {note, title: base ? "Fine-tuned" : null});
  const isAgreed = base?.label === answer.label;
  const blocks = !base ? block : [
    element("p", {class: isAgreed ? "soft" : "notice"}, isAgreed ? "The base model gives the same label." : "The base model gives another label."),
    element("div", {class: "pair"}, block, answerBlock(base, {}, {title: "Base, without the adapter", kind: "base"}))];
  const flag = button("Add to review", () => {
    addToReview([{input, model, answer}]);
    flag.replaceWith(element("span", {class: "soft"}, "In the review queue."));
  });
  const isQueued = isUncertain(answer);
  at("answer").replaceChildren(...[blocks].flat(), explainBox(input, model),
    element("div", {class: "actions"}, isQueued ? element("span", {class: "soft"}, "Uncertain, so it is in the review queue.") : flag));
}

async function classify(event) {
  event.preventDefault();
  const input = readInput(), {model} = session, base = at("compare").checked ? session.baseOf(model) : null;
  const number = ++latest;
  at("answer").classList.add("stale");
  const isDone = await attempt(at("text-status"), "Waiting …", async (options) => {
    const began = performance.now();
    const ask = async (id) => readAnswer((await call("v1/classify", {...options, body: {model: id, input}})).data[0]);
    const answer = await ask(model.id), seconds = (performance.now() - began) / 1000;
    const entry = {input, model, answer, seconds, base: base && await ask(base.id)};
    if (isUncertain(answer)) addToReview([entry]);
    past.unshift(entry);
    past.splice(MAX_HISTORY);
    show(entry);
    showHistory();
    const {top} = at("answer-title").getBoundingClientRect();
    if (top > 0.7 * innerHeight) at("answer-title").parentElement.scrollIntoView();  // on a phone it is below the form
  });
  if (number !== latest) return;
  if (!isDone) at("answer").replaceChildren();  // not the answer to another text
  at("answer").classList.remove("stale");
}

export function startText(shared) {
  session = shared;
  at("text-form").addEventListener("submit", classify);
  session.onChoice(showFields);
}
