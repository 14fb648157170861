// Waiting for jobs by the page's own stream of events (live.js), without another connection.
import { request } from "./api.js";

const ENDED = ["succeeded", "failed", "cancelled"];
const KEPT = 300; // ended jobs that are remembered: an event may come before the answer that names the job
const FIRST_LOOK_MS = 1500; // the stream may have been opened too late for an event
const LOOK_MS = 10000;

const ended = new Map();
const waiting = new Map(); // id of the job -> functions that look at it

function look(job) {
  for (const one of waiting.get(job.id) ?? []) one(job);
  if (!ENDED.includes(job.state)) return;
  ended.set(job.id, job);
  if (ended.size > KEPT) ended.delete(ended.keys().next().value);
}

const ask = (id) => request("GET", `v1/jobs/${id}`).then(look, () => {});

document.addEventListener("phema:change", ({ detail }) => {
  if (detail?.job) look(detail.job);
  else if (!detail || detail.kind === "resync") for (const id of waiting.keys()) ask(id);
});

/** The job when it has ended in whatever state; null when `signal` is aborted before. */
export function jobEnded(id, { signal, onProgress = () => {} } = {}) {
  if (ended.has(id)) return Promise.resolve(ended.get(id));
  return new Promise((resolve) => {
    let timer = 0;
    const finish = (result) => {
      clearTimeout(timer);
      waiting.get(id)?.delete(one);
      if (!waiting.get(id)?.size) waiting.delete(id);
      signal?.removeEventListener("abort", stop);
      resolve(result);
    };
    const one = (job) => (ENDED.includes(job.state) ? finish(job) : onProgress(job));
    const stop = () => finish(null);
    const again = () => {
      ask(id);
      timer = setTimeout(again, LOOK_MS);
    };
    if (signal?.aborted) return void resolve(null);
    signal?.addEventListener("abort", stop);
    waiting.set(id, (waiting.get(id) ?? new Set()).add(one));
    timer = setTimeout(again, FIRST_LOOK_MS);
  });
}
