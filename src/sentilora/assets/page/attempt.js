// A task with its spinner, its Cancel button and its error, in a box of the page.
import {button, element} from "./dom.js";

const SPINNER_AFTER_MS = 300;
const running = new WeakMap();

export const cancelIn = (box) => running.get(box)?.abort();

// Runs task({signal, onWait}). A newer attempt in the same box cancels the older one. Returns
// whether the task succeeded.
export async function attempt(box, doing, task, {onCancel = () => {}} = {}) {
  cancelIn(box);
  const controller = new AbortController(), began = performance.now();
  running.set(box, controller);
  box.replaceChildren();
  const words = element("span", {}, doing), seconds = element("span", {class: "soft", "aria-hidden": "true"});
  const cancel = button("Cancel", () => { controller.abort(); box.replaceChildren(element("p", {class: "soft"}, "Canceled.")); onCancel(); });
  const wait = setTimeout(() => box.replaceChildren(
    element("div", {class: "waiting"}, element("span", {class: "spinner", "aria-hidden": "true"}), words, seconds, cancel)), SPINNER_AFTER_MS);
  const clock = setInterval(() => { seconds.textContent = `${Math.round((performance.now() - began) / 1000)} s`; }, 1000);
  try {
    await task({signal: controller.signal, onWait: (line) => { words.textContent = line; }});
    if (running.get(box) === controller && !controller.signal.aborted) box.replaceChildren();
    return true;
  } catch (failure) {
    if (controller.signal.aborted) return false;
    if (!("canRetry" in failure)) console.error(failure);
    box.replaceChildren(element("div", {class: "alert", role: "alert"}, element("p", {}, failure.message),
      failure.canRetry === false ? null : button("Try again", () => attempt(box, doing, task, {onCancel}))));
    return false;
  } finally {
    clearTimeout(wait);
    clearInterval(clock);
  }
}
