// Talks to the HTTP API beside which this page lies. The key, if the API asks for one, is kept for this tab only.

import { h } from "./dom.js";

const KEY = "droptune-api-key";
const KEY_HEADER = "x-api-key";

/** An error of the API, or of the way to it. `absent` tells that this system has no such part. */
export class ApiError extends Error {
  constructor({ code = "", message, hint = "", request_id = null }, status = 0) {
    super(message);
    Object.assign(this, { code, hint, requestId: request_id, status });
    this.absent = code === "NotFound" || code === "MethodNotAllowed" || status === 405;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/**
 * Ask the API and return its JSON. A 401 asks the person for the key, once for all waiting calls, and tries again.
 * @param {string} path relative to this page, for example `runs/x`
 * @param {{ method?: string, json?: any, body?: BodyInit, headers?: Record<string, string>, signal?: AbortSignal }} [options]
 */
export async function call(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const answer = await send(path, options, key);
    if (answer.status === 401) {
      await askForKey(key, options.signal);
      continue;
    }
    const document = await answer.json().catch(() => null);
    if (answer.ok) return document;
    throw new ApiError(document?.error ?? {
      code: `HTTP ${answer.status}`,
      message: document?.message ?? "The API gave an answer that cannot be read.",
      hint: "Try again. If it stays, look at the log of the API's function.",
    }, answer.status);
  }
}

async function send(path, { method = "GET", json, body, headers = {}, signal }, key) {
  const all = { Accept: "application/json", ...headers };
  if (json !== undefined) all["Content-Type"] = "application/json";
  if (key !== null) all[KEY_HEADER] = key;
  try {
    return await fetch(path, { method, headers: all, body: json === undefined ? body : JSON.stringify(json), signal, cache: "no-cache" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ code: "NoAnswer", message: "The API does not answer.", hint: "Look whether you are connected, and whether the system is up (droptune status)." });
  }
}

let question = null;

function askForKey(refused, signal) {
  // Another call may have asked, and been answered, while this one was on its way.
  if (sessionStorage.getItem(KEY) !== refused) return Promise.resolve();
  question ??= keyDialog(refused !== null).finally(() => { question = null; });
  return question.then(() => signal?.throwIfAborted());
}

/** Ask for the API key. Rejects when the person gives none. */
export function keyDialog(refused = false) {
  return new Promise((resolve, reject) => {
    const field = h("input", { type: "password", id: "api-key", autocomplete: "off", spellcheck: "false", required: true });
    const form = h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); dialog.close(field.value.trim()); } },
      h("h2", { id: "key-title" }, "API key"),
      h("p", {}, refused ? "The API did not take this key." : "This API asks for a key.",
        " On the machine of a local cloud, droptune env prints it as DROPTUNE_API_KEY."),
      h("label", { for: "api-key" }, "Key"), field,
      h("p", { class: "small" }, "It is kept for this tab, until you close it, and sent to this API alone."),
      h("div", { class: "buttons" },
        h("button", { type: "button", onclick: () => dialog.close("") }, "Cancel"),
        h("button", { type: "submit", class: "primary" }, "Use this key")));
    const dialog = h("dialog", { "aria-labelledby": "key-title", onclose: () => {
      dialog.remove();
      if (dialog.returnValue) {
        sessionStorage.setItem(KEY, dialog.returnValue);
        resolve();
      } else {
        reject(new ApiError({ code: "Unauthorized", message: "The API asks for a key.", hint: "Press “API key” above, and enter it." }, 401));
      }
    } }, form);
    // From now on the key can be changed.
    window.dispatchEvent(new Event("droptune-key"));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * A link to something that the API answers with a signed address. A browser cannot send a key with a plain link, so
 * with a key the address is asked for first.
 */
export function signedLink(path, text) {
  const link = h("a", { href: path, target: "_blank", rel: "noopener" }, text);
  link.addEventListener("click", async (event) => {
    if (!hasKey()) return;
    event.preventDefault();
    // Opened at once: a browser blocks a window that no click opened.
    const tab = window.open("", "_blank");
    try {
      const { url } = await call(path);
      tab.opener = null;
      tab.location.replace(url);
    } catch (error) {
      tab.close();
      link.after(h("span", { role: "alert", class: "small" }, ` ${error.message}`));
    }
  });
  return link;
}

/**
 * Do `task` again and again until it returns false or the view is left. It is asked less and less often while it
 * returns the same text, and not at all while the page is hidden.
 * @param {() => Promise<string | false>} task
 * @param {AbortSignal} signal ends it
 * @param {(error: Error | null) => void} onTrouble is told of each error, and with null that it is over
 */
export async function poll(task, signal, onTrouble, { fastest = 1500, slowest = 15000 } = {}) {
  let [pause, before, troubled] = [fastest, null, false];
  while (!signal.aborted) {
    try {
      const state = await task();
      if (troubled) onTrouble(null);
      troubled = false;
      if (state === false) return;
      pause = state === before ? Math.min(pause * 1.4, slowest) : fastest;
      before = state;
    } catch (error) {
      if (signal.aborted) return;
      onTrouble(error);
      // Neither a missing thing nor a missing key gets better by asking.
      if (error.status >= 400 && error.status < 500 && error.status !== 429) return;
      troubled = true;
      pause = Math.min(pause * 2, 30000);
    }
    await sleep(pause, signal);
    if (document.hidden) await visible(signal);
  }
}

const sleep = (milliseconds, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

const visible = (signal) => new Promise((resolve) => {
  const check = () => {
    if (document.hidden && !signal.aborted) return;
    document.removeEventListener("visibilitychange", check);
    resolve();
  };
  document.addEventListener("visibilitychange", check);
  signal.addEventListener("abort", check, { once: true });
  check();
});

/** The names of all datasets that the API knows, with what is live. */
export async function listDatasets(signal) {
  const found = [];
  let next = null;
  do {
    const page = await call(`datasets?limit=100${next ? `&next=${encodeURIComponent(next)}` : ""}`, { signal });
    found.push(...page.datasets);
    next = page.next;
  } while (next);
  return found;
}
