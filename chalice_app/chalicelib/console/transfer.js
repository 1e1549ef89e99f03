// Sends files to S3 with the API's signed forms: several at a time, again when the way was at fault.

import { ApiError, call } from "./api.js";

const BATCH = 100;
const AT_ONCE = 6;
const ATTEMPTS = 3;
const PAUSE = 800;
// Forms are asked for anew before they end.
const MARGIN_SECONDS = 120;

/** The upload of some files of a dataset, which can be run again for what failed. */
export class Transfer {
  /** @param {{ path: string, file: File, type: string }[]} files */
  constructor(dataset, files) {
    this.dataset = dataset;
    this.entries = files.map((entry) => ({ ...entry, sent: 0, done: false, reason: null }));
    this.startedAt = new Date().toISOString();
    this.onprogress = () => {};
    this.stop = new AbortController();
  }

  get failed() {
    return this.entries.filter((entry) => entry.reason !== null);
  }

  progress() {
    const sum = (member) => this.entries.reduce((total, entry) => total + member(entry), 0);
    return { done: sum((entry) => Number(entry.done)), total: this.entries.length, sent: sum((entry) => entry.sent), size: sum((entry) => entry.file.size) };
  }

  cancel() {
    this.stop.abort();
  }

  /** Send what has not arrived. Afterwards `failed` names what did not; when nothing did, the dataset is marked ready. */
  async run() {
    this.stop = new AbortController();
    const waiting = this.entries.filter((entry) => !entry.done);
    for (const entry of waiting) Object.assign(entry, { sent: 0, reason: null });
    this.onprogress();
    for (let first = 0; first < waiting.length; first += BATCH) {
      await this.#sendBatch(waiting.slice(first, first + BATCH));
    }
    if (this.failed.length === 0) await this.markReady();
  }

  /** Say that no more will come, so that the run starts at once. */
  async markReady() {
    const signal = this.stop.signal.aborted ? new AbortController().signal : this.stop.signal;
    const [form] = await this.#forms([{ path: "_READY", type: "text/plain" }], signal);
    await post(form, new Blob([]), signal, () => {});
  }

  async #forms(entries, signal) {
    const files = entries.map(({ path, type }) => ({ path, content_type: type }));
    const answer = await call(`datasets/${encodeURIComponent(this.dataset)}/uploads`, { method: "POST", json: { files }, signal });
    const end = Date.now() + 1000 * (answer.expires_in - MARGIN_SECONDS);
    return answer.uploads.map((form) => ({ ...form, end }));
  }

  async #sendBatch(batch) {
    const forms = await this.#forms(batch, this.stop.signal);
    const waiting = batch.map((entry, index) => [entry, forms[index]]);
    const worker = async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) await this.#send(...next);
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, batch.length) }, worker));
  }

  async #send(entry, given) {
    let form = given;
    if (entry.file.size > form.max_bytes) {
      entry.reason = `The file is larger than the ${Math.floor(form.max_bytes / 1024 ** 2)} MiB that are allowed.`;
      return;
    }
    for (let attempt = 1; ; attempt += 1) {
      try {
        if (Date.now() > form.end) [form] = await this.#forms([entry], this.stop.signal);
        await post(form, entry.file, this.stop.signal, (sent) => { entry.sent = Math.min(sent, entry.file.size); this.onprogress(); });
        Object.assign(entry, { done: true, sent: entry.file.size });
        this.onprogress();
        return;
      } catch (error) {
        entry.sent = 0;
        this.onprogress();
        if (this.stop.signal.aborted) throw new ApiError({ code: "Stopped", message: "You stopped the upload.", hint: "What has arrived stays." });
        if (attempt === ATTEMPTS || (error.status >= 400 && error.status < 500)) {
          entry.reason = error.message;
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, PAUSE * 2 ** attempt));
      }
    }
  }
}

/** Send one signed form. fetch() would not tell how far it is. */
function post(form, file, signal, onprogress) {
  return new Promise((resolve, reject) => {
    const fields = new FormData();
    for (const [name, value] of Object.entries(form.fields)) fields.append(name, value);
    // S3 ignores what comes behind the file.
    fields.append("file", file);
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open("POST", form.url);
    request.upload.addEventListener("progress", (event) => onprogress(event.loaded));
    request.addEventListener("loadend", () => {
      signal.removeEventListener("abort", stop);
      if (request.status >= 200 && request.status < 300) resolve();
      else reject(refusal(request));
    });
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) reject(signal.reason);
    else request.send(fields);
  });
}

function refusal(request) {
  if (request.status === 0) return new ApiError({ code: "NoAnswer", message: "The connection to the storage broke." });
  const answer = new DOMParser().parseFromString(request.responseText, "application/xml");
  const text = (name) => answer.querySelector(name)?.textContent ?? "";
  return new ApiError({ code: text("Code"), message: `The storage refused it: ${text("Message") || `status ${request.status}`}` }, request.status);
}
