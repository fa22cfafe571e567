// One answer: label, a bar per label, abstention, truncation, and the words that moved it.
import {call} from "./api.js";
import {attempt} from "./attempt.js";
import {barLine, button, counted, element, percent} from "./dom.js";

const MAX_BARS = 8, MAX_WORDS = 5, LONG_LABEL = 14;
const HEAVIEST = 0.6, LEAST = 0.12;  // opacity of the heaviest word; the least share of its weight that is marked

// An item of /v1/classify as the page uses it; the likeliest label comes first.
export function readAnswer(item) {
  const ranked = Object.entries(item.probabilities).sort((a, b) => b[1] - a[1]);
  const [label, probability] = ranked[0];
  return {...item, ranked, label, probability, lead: probability - (ranked[1]?.[1] ?? 0)};
}

export const isUncertain = (answer) => answer.abstained || answer.lead < 0.5;

export function tag(answer) {
  return answer.abstained
    ? element("span", {class: "tag unsure"}, `abstained (${answer.label} ${percent(answer.probability)})`)
    : element("span", {class: isUncertain(answer) ? "tag unsure" : "tag sure"}, `${answer.label} ${percent(answer.probability)}`);
}

function headline(answer, model) {
  if (!answer.abstained) return [element("p", {class: answer.label.length > LONG_LABEL ? "big long" : "big"}, answer.label),
    element("p", {class: "verdict"}, `Probability ${percent(answer.probability)}`)];
  const below = model.abstain_below ? `below the ${percent(model.abstain_below, Number.isInteger(Math.round(1e6 * model.abstain_below) / 1e4) ? 0 : 1)} it needs for an answer` : "too low for an answer";
  return [element("p", {class: "big unsure"}, "No answer"),
    element("p", {class: "verdict"}, "The model abstains: its likeliest label is ", element("strong", {}, answer.label),
      ` with ${percent(answer.probability)}, ${below}.`)];
}

function bars(answer, kind) {
  const list = element("ol", {class: "bars"});
  const show = (entries) => list.append(...entries.map(([label, p]) => barLine(label, percent(p), p, kind)));
  const {ranked} = answer, isLong = ranked.length > MAX_BARS + 1;
  show(isLong ? ranked.slice(0, MAX_BARS) : ranked);
  const more = isLong ? button(`Show all ${ranked.length} labels`, () => {
    show(ranked.slice(MAX_BARS));
    more.remove();
  }, {class: "quiet"}) : null;
  return [list, more];
}

// answer: from readAnswer. note: a line about speed. kind: "adapter" or "base".
export function answerBlock(answer, model, {title = null, kind = "adapter", note = null} = {}) {
  const facts = [answer.tokens === undefined ? null : counted(answer.tokens, "token"), note].filter(Boolean);
  return element("div", {class: `block ${kind}`},
    title && element("h3", {}, title), headline(answer, model), bars(answer, kind),
    answer.truncated ? element("p", {class: "notice"}, "The text was too long: the model saw only a part of it.") : null,
    facts.length ? element("p", {class: "gloss"}, facts.join(" · ")) : null);
}

const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);

function marked(words, weight, attributes) {
  const mark = element("mark", attributes, words);
  mark.style.setProperty("--weight", weight);
  return mark;
}

// The text with its words marked. Offsets count characters, not UTF-16 units.
function markedText(text, words) {
  const letters = Array.from(text), paragraph = element("p", {class: "marked", tabindex: 0});
  const heaviest = Math.max(1e-9, ...words.map((word) => Math.abs(word.contribution ?? 0)));
  let position = 0;
  for (const {start, end, contribution} of [...words].sort((a, b) => a.start - b.start)) {
    const weight = Math.abs(contribution ?? 0) / heaviest, isUnseen = contribution === null;
    if (start < position || (weight < LEAST && !isUnseen)) continue;
    const word = letters.slice(start, end).join("");
    paragraph.append(letters.slice(position, start).join(""), isUnseen ? element("s", {class: "soft", title: "not seen by the model"}, word)
      : marked(word, HEAVIEST * weight, {class: contribution > 0 ? "for" : "against", title: signed(contribution)}));
    position = end;
  }
  paragraph.append(letters.slice(position).join(""));
  return paragraph;
}

function strongest(text, words) {
  const letters = Array.from(text);
  const ranked = words.filter((word) => word.contribution).sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution));
  const least = LEAST * Math.abs(ranked[0]?.contribution ?? 0);
  return ranked.slice(0, MAX_WORDS).filter((word) => Math.abs(word.contribution) >= least).map(({start, end, contribution}) =>
    `${letters.slice(start, end).join("").replace(/^\p{P}+|\p{P}+$/gu, "")} ${signed(contribution)}`).join(" · ");
}

function explanation(text, {label, words}) {  // of several columns only the text is explained
  const sample = (side, words) => marked(words, HEAVIEST / 2, {class: side});
  const list = strongest(text, words);
  if (!list) return element("p", {class: "gloss"}, "No single word moved this answer.");
  return element("div", {},
    element("p", {class: "gloss"}, "Words ", sample("for", `for ${label}`), " and ", sample("against", "against it"),
      ". The stronger the color, the more the answer changes without the word."),
    markedText(text, words),
    element("p", {class: "gloss"}, `Strongest (log-odds): ${list}`));
}

// A button that asks for the words that moved the answer, and shows them in its place.
export function explainBox(input, model) {
  const status = element("div", {role: "status"}), place = element("div");
  const ask = button("Show the words that moved it", () => attempt(status, "Leaving out one word after another …", async (options) => {
    ask.disabled = true;
    const result = await call("v1/explain", {...options, body: {model: model.id, input}}).finally(() => { ask.disabled = false; });
    ask.remove();
    place.replaceChildren(explanation(typeof input === "string" ? input : input.text, result));
  }));
  return element("div", {class: "explain"}, ask, status, place);
}
