// Pictures that follow the slider: previews, drawn by a warm worker from weights that are not stored.
import { address, ApiError, request } from "./api.js";
import { averageName, guidance, sampler, wanted } from "./explorer_state.js";
import { count, duration, setText } from "./formats.js";
import { jobEnded } from "./job_events.js";
import { afterQuiet, Newest } from "./newest.js";

const QUIET_MS = 30; // longer than the pause between two events of a moving slider
const SOON_MS = 2000; // pictures that take less follow the slider
const PATIENCE_MS = 3000; // after which the page says that the worker is busy

export class PreviewsView {
  /** `plan`: how long a preview takes, as the server said; null where none can be drawn. `onError` shows an error. */
  constructor({ run, pictures, plan, onError }) {
    Object.assign(this, { run, pictures, plan, onError });
    this.possible = plan !== null;
    this.follows = plan !== null && !plan.large;
    const find = (id) => document.getElementById(id);
    this.parts = { image: find("preview"), note: find("preview-note"), state: find("preview-state"), caption: find("preview-caption"), button: find("draw"), frame: find("frame") };
    this.shown = null;
    this.cost = null;
    this.queue = new Newest((state, signal) => this.draw(state, signal));
    this.later = afterQuiet(QUIET_MS, () => this.follow());
    this.parts.button.addEventListener("click", () => this.queue.ask(this.state));
  }

  body(state) {
    return { ...wanted(state), ...sampler(state, this.pictures) };
  }

  /** Dim the pictures if they are those of another state. */
  want(state) {
    this.state = state;
    this.parts.frame.classList.toggle("stale", this.isStale());
  }

  isStale() {
    return this.shown !== JSON.stringify(this.body(this.state));
  }

  /** Show pictures of the state that was wanted last, as soon as they are drawn. */
  ask() {
    if (this.isStale()) this.later();
  }

  /** Draw, or offer to draw where it takes long. */
  async follow() {
    const cost = JSON.stringify([this.state.num_steps, guidance(this.state)]);
    if (!this.possible || (this.cost !== null && cost !== this.cost)) await this.askPlan(this.state);
    this.cost = cost;
    if (!this.possible) return;
    if (this.follows) this.queue.ask(this.state);
    else this.offer();
  }

  /** A button with the seconds that the pictures will take. */
  offer() {
    const seconds = this.plan.seconds === null ? "takes long" : `about ${duration(this.plan.seconds)}`;
    setText(this.parts.button, `Draw ${this.pictures} pictures (${seconds})`);
    setText(this.parts.state, `The network has ${count(this.plan.parameters)} parameters; its pictures do not follow the slider.`);
    this.parts.button.hidden = false;
  }

  /** How long the pictures of the present settings take. */
  async askPlan(state) {
    try {
      this.plan = await request("POST", `v1/runs/${this.run}/previews`, { ...this.body(state), plan_only: true });
      this.possible = true;
      this.follows = !this.plan.large;
      this.parts.button.hidden = this.follows;
    } catch (error) {
      this.possible = false;
      this.fail(error);
    }
  }

  async draw(state, signal) {
    const body = this.body(state);
    const patience = setTimeout(() => setText(this.parts.state, "The worker is busy; the pictures wait for it."), PATIENCE_MS);
    setText(this.parts.state, `Drawing ${averageName(state)}…`);
    const began = performance.now();
    try {
      const preview = await this.drawn(body, signal);
      if (preview === null) return;
      // The estimate may come from the first pictures of a service, which take longer than later ones.
      this.follows ||= performance.now() - began < SOON_MS;
      await this.show(preview, state, JSON.stringify(body));
      this.parts.button.hidden = this.follows || !this.isStale();
    } catch (error) {
      if (!signal.aborted) this.fail(error);
    } finally {
      clearTimeout(patience);
    }
  }

  /** The finished preview; null if a newer one is wanted meanwhile, which makes this one useless. */
  async drawn(body, signal, tries = 2) {
    const preview = await request("POST", `v1/runs/${this.run}/previews`, body);
    if (preview.state === "succeeded") return preview;
    const job = await jobEnded(preview.job_id, { signal });
    if (job === null) {
      request("POST", `v1/jobs/${preview.job_id}/cancel`).catch(() => {});
      return null;
    }
    if (job.state === "succeeded") return preview;
    // Another viewer who asked for the same pictures may have cancelled them.
    if (job.state === "cancelled" && tries > 1) return this.drawn(body, signal, tries - 1);
    throw new Error(job.error ?? `The preview was ${job.state}.`);
  }

  async show(preview, state, key) {
    const { image, caption, frame, note } = this.parts;
    const loaded = new Image();
    loaded.src = address(`v1/previews/${preview.id}/download`);
    await loaded.decode();
    const told = `${this.pictures} pictures of ${averageName(state)}`;
    image.src = loaded.src;
    image.alt = `${told} at ${count(state.num_images)} images, seeds ${state.seed} to ${state.seed + this.pictures - 1}`;
    image.hidden = false;
    setText(note, "");
    const guided = state.guidance === 1 ? "without guidance" : `guidance ${state.guidance}`;
    setText(caption, `${told}, ${count(state.num_images)} images. Seeds ${state.seed} to ${state.seed + this.pictures - 1}, ${state.num_steps} steps, ${guided}. Preview ${preview.id}.`);
    setText(this.parts.state, "");
    this.shown = key;
    image.dataset.shown = averageName(state);
    frame.classList.toggle("stale", this.isStale());
    document.dispatchEvent(new CustomEvent("phema:preview", { detail: preview }));
  }

  fail(error) {
    setText(this.parts.state, "");
    const fields = error instanceof ApiError ? error.errors : [];
    const beside = fields.length > 0 && this.onError(error);
    setText(this.parts.note, beside ? "" : error.message);
  }
}
