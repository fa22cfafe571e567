// Requests to the server, and what each refusal means in plain words.
import {at} from "./dom.js";

const PATIENCE_SECONDS = 120;  // of waiting for a server that is busy or not ready

export class Failure extends Error {
  // status: of the answer, 0 when there was none. canRetry: whether trying again may help.
  constructor(status, message, canRetry = true) {
    super(message);
    Object.assign(this, {status, canRetry});
  }
}

let key = null, asking = null;
try { key = sessionStorage.getItem("api-key"); } catch { key = null; }  // storage may be switched off

function askForKey(refused) {  // one dialog, whoever asks meanwhile
  asking ??= new Promise((resolve, reject) => {
    const dialog = at("key-dialog"), field = at("key");
    at("key-note").textContent = refused ? "The server refused that key. Try another." : "Kept in this tab until you close it.";
    field.value = "";
    const finish = (outcome, value) => { asking = null; dialog.close(); outcome(value); };
    at("key-form").onsubmit = (event) => {
      event.preventDefault();
      key = field.value.trim();
      try { sessionStorage.setItem("api-key", key); } catch { /* kept until a reload */ }
      finish(resolve);
    };
    dialog.oncancel = at("key-cancel").onclick = (event) => {
      event.preventDefault();
      finish(reject, new Failure(401, "Without its API key this server does not answer."));
    };
    dialog.showModal();
  });
  return asking;
}

function pause(seconds, signal, onTick) {
  return new Promise((resolve, reject) => {
    const end = performance.now() + 1000 * seconds;
    const stop = () => { clearInterval(timer); signal?.removeEventListener("abort", cancel); };
    const cancel = () => { stop(); reject(signal.reason); };
    const tick = () => {
      const left = end - performance.now();
      if (left <= 0) { stop(); resolve(); } else onTick(Math.ceil(left / 1000));
    };
    const timer = setInterval(tick, 200);
    signal?.addEventListener("abort", cancel);
    tick();
  });
}

function secondsToWait(response) {  // Retry-After is in seconds, or a date
  const value = response.headers.get("Retry-After");
  if (value === null || value === "") return 2;
  const seconds = Number.isFinite(+value) ? +value : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0.2, seconds) : 2;
}

function failureOf(status, message) {
  const detail = message ? ` The server says: ${message}` : "";
  if (status === 403) return new Failure(status, "This key may not do that." + detail, false);
  if (status === 404) return new Failure(status, "The server does not know this model. Reload the page to see which it has." + detail, false);
  if (status === 413) return new Failure(status, "This is too long for the server. Shorten it and try again.", false);
  if (status === 400 || status === 415 || status === 422)
    return new Failure(status, "The server cannot classify this." + detail, false);
  if (status === 429) return new Failure(status, "The server is still too busy. Try again in a minute.");
  if (status === 503) return new Failure(status, "The server is not ready. Try again in a minute." + detail);
  if (status === 502 || status === 504) return new Failure(status, "The server took too long to answer.");
  return new Failure(status, `The server made an error (${status}).` + detail);
}

async function send(path, body, signal) {
  const headers = {Accept: "application/json"};
  if (body !== null) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    return await fetch(path, {
      method: body === null ? "GET" : "POST", headers, signal, cache: "no-store",
      body: body === null ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(0, "The server does not answer. Is sentilora serve still running?");
  }
}

// The response that is OK. Waits as long as a 429 or 503 asks for; onWait gets a line about it.
export async function request(path, {body = null, signal, onWait = () => {}} = {}) {
  for (let waited = 0; ;) {
    const keySent = key, response = await send(path, body, signal);
    if (response.ok) return response;
    if (response.status === 401) {
      if (keySent === key) await askForKey(Boolean(keySent));
      continue;
    }
    const {error} = await response.json().catch(() => ({}));
    const message = typeof error === "string" ? error : error?.message, seconds = secondsToWait(response);
    waited += seconds;
    if ([429, 503].includes(response.status) && waited <= PATIENCE_SECONDS) {
      const reason = response.status === 429 ? "The server is busy." : `The server is not ready: ${message}.`;
      await pause(seconds, signal, (left) => onWait(`${reason} Trying again in ${left} s.`));
      onWait("Trying again …");
      continue;
    }
    throw failureOf(response.status, message);
  }
}

export async function call(path, options) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new Failure(0, "The answer broke off, or is not from sentilora serve.");
  }
}
