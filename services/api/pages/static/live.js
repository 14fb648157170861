// Parts of a page that follow the stream of events: <section id="…" data-live data-run="run-…">.
//
// When something changes, the page is fetched again and those parts are replaced whose content differs. The server
// renders everything once; there is no second way to make the same markup. A part in which the keyboard's focus lies on
// a field is replaced later. data-live="paused" leaves a part alone; data-live="own" leaves it to the page's script, which
// calls `refresh` when a change concerns it.
import { address } from "./api.js";

const PAUSE_MS = 700; // at least between two refreshes
const AUTOMATIC = "[data-live]:not([data-live=paused], [data-live=own])";

/** Follow the events of the run that the live parts of `root` name, or all events. */
export function followEvents(root) {
  const parts = [...root.querySelectorAll("[data-live]")];
  if (!parts.length) return;
  const runs = new Set(parts.map((part) => part.dataset.run).filter(Boolean));
  const query = runs.size === 1 ? `?run=${encodeURIComponent([...runs][0])}` : "";
  let stream = null;
  let waiting = false;
  let again = false; // something changed while the page was fetched
  const refreshSoon = () => {
    if (!document.querySelector(AUTOMATIC)) return;
    if (waiting) {
      again = true;
      return;
    }
    waiting = true;
    setTimeout(async () => {
      again = false;
      await refresh();
      waiting = false;
      if (again) refreshSoon();
    }, PAUSE_MS);
  };
  // The first event is a resync: what changed between the answer of the page and the stream is not in the stream.
  const changed = (event) => {
    document.dispatchEvent(new CustomEvent("phema:change", { detail: event.data ? JSON.parse(event.data) : null }));
    refreshSoon();
  };
  const open = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(address(`v1/events${query}`));
    for (const kind of ["job", "run", "resync"]) stream.addEventListener(kind, changed);
  };
  const close = () => {
    stream?.close();
    stream = null;
  };
  // Browsers keep at most six connections to one address, so a tab that nobody sees gives up its own. The next stream
  // begins with a resync, which brings the page up to date.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}

/** Fetch the page again and replace the live parts that differ. `parts`: their selector. */
export async function refresh(parts = AUTOMATIC) {
  if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  const answer = await fetch(window.location.href, { headers: { Accept: "text/html", "X-Phema-Refresh": "1" } }).catch(() => null);
  if (!answer?.ok) return; // the next event tries again
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll(parts)) {
    const next = fresh.getElementById(part.id);
    if (!next || part.isEqualNode(next) || part.querySelector("input:not([type=checkbox]):focus, select:focus, textarea:focus, [open]")) continue;
    const focused = document.activeElement?.id;
    part.replaceWith(next);
    if (focused) document.getElementById(focused)?.focus();
    next.dispatchEvent(new CustomEvent("phema:replaced", { bubbles: true }));
  }
}
