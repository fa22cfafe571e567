// Starts the page: which models there are, the tabs, the chosen model.
import {call} from "./api.js";
import {attempt} from "./attempt.js";
import {at, element, select} from "./dom.js";
import {startFile} from "./file.js";
import {startReview} from "./review.js";
import {startText} from "./text.js";

const listeners = [];
const session = {
  models: [], model: null, review: false,
  onChoice(listener) { listeners.push(listener); },
  // The base of an adapter, if it gets the adapter's prompt: the server gives it the first adapter's.
  baseOf(model) {
    const question = ({labels, columns, instructions}) => JSON.stringify([labels, columns, instructions]);
    return session.models.find((base) => base.type === "base" && base.id === model.base && question(base) === question(model)) ?? null;
  },
  choose(model) {
    if (session.model === model) return;
    session.model = model;
    showModel();
    for (const listener of listeners) listener();
  },
};

function showModel() {
  const adapters = session.models.filter(({type}) => type === "adapter"), {model} = session;
  const name = adapters.length > 1
    ? select("Model", adapters.map(({id}) => [id, id]), model.id, (id) => session.choose(adapters.find((adapter) => adapter.id === id)))
    : element("span", {}, "Model ", element("strong", {}, model.id));
  at("model").replaceChildren(name);
  document.title = `${model.id} – sentilora`;
}

const tabs = [...document.querySelectorAll("[role=tab]")];
function openTab(tab) {
  for (const other of tabs) {
    const isOpen = other === tab;
    other.setAttribute("aria-selected", isOpen);
    other.tabIndex = isOpen ? 0 : -1;
    at(other.getAttribute("aria-controls")).hidden = !isOpen;
  }
}
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => {
    openTab(tab);
    if (tab.id === "review-tab") at("review-card").focus();
  });
  tab.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    const next = tabs[(i + step + tabs.length) % tabs.length];
    openTab(next);
    next.focus();
  });
});

for (const start of [startText, startFile, startReview]) start(session);
attempt(at("start-status"), "Connecting to the server …", async (options) => {
  const {data, review} = await call("v1/models", options);
  const first = data.find(({type}) => type === "adapter");
  if (!first) throw Object.assign(new Error("This server has no adapter. Start it with sentilora serve --adapter DIR."), {canRetry: true});
  // fields: the columns of an input that is an object; null where it is a text
  for (const model of data) model.fields = model.columns.length ? ["text", ...model.columns] : null;
  Object.assign(session, {models: data, review});
  session.choose(first);
  document.body.classList.add("ready");
});
