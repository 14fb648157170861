// What the buttons of the explorer do. Where stored weights are needed, they are reconstructed first.
import { address, request, toast } from "./api.js";
import { averageName, guidance, tensorsOf, wanted } from "./explorer_state.js";
import { body, showError } from "./forms.js";
import { count } from "./formats.js";
import { jobEnded } from "./job_events.js";

/** Listen to the buttons and dialogs of the page. `state()` is the present state. */
export function listenToActions({ run, state }) {
  const flows = { reconstruct, evaluate, sweep, search, promote };
  for (const button of document.querySelectorAll("[data-dialog]")) {
    button.addEventListener("click", () => open(document.getElementById(button.dataset.dialog), state()));
  }
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target.closest("[data-close]")) dialog.close(); });
    const form = dialog.querySelector("form[data-flow]");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      clear(form);
      during(event.submitter, () => flows[form.dataset.flow](run, state(), body(form)), (error) => showError(form, error)).then((done) => done && dialog.close());
    });
  }
  const download = document.getElementById("download");
  download.addEventListener("click", () => during(download, () => downloadWeights(run, state()), (error) => toast(error.message)));
}

function open(dialog, state) {
  clear(dialog);
  for (const place of dialog.querySelectorAll("[data-average]")) place.textContent = `${averageName(state)} at ${count(state.num_images)} images.`;
  for (const place of dialog.querySelectorAll("[data-time]")) place.textContent = `At ${count(state.num_images)} images${state.tensors.length ? `, with own lengths for ${state.tensors.map(([pattern]) => pattern).join(", ")}` : ""}.`;
  dialog.showModal();
}

function clear(place) {
  for (const wrong of place.querySelectorAll(".wrong[role=alert]")) wrong.remove();
  for (const field of place.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

/** Whether the work succeeded. The button is disabled meanwhile. */
async function during(button, work, onError) {
  if (button) button.disabled = true;
  try {
    await work();
    return true;
  } catch (error) {
    onError(error);
    return false;
  } finally {
    if (button) button.disabled = false;
  }
}

/** The finished reconstruction of this state. Throws an Error when it fails. */
async function reconstructed(run, state, fields = {}) {
  const answer = await request("POST", `v1/runs/${run}/reconstructions`, { ...wanted(state), ...fields });
  const [made] = answer.reconstructions;
  if (made.state === "succeeded") return made;
  toast(`Reconstructing ${averageName(state)}…`);
  const job = await jobEnded(made.job_id);
  if (job.state !== "succeeded") throw new Error(job.error ?? `The reconstruction was ${job.state}.`);
  return made;
}

async function reconstruct(run, state, { dtype }) {
  const made = await reconstructed(run, state, { dtype });
  toast(`${averageName(state)} is stored as ${made.id}.`, { href: address(`v1/reconstructions/${made.id}/download`), text: "Download" });
}

async function evaluate(run, state, fields) {
  const made = await reconstructed(run, state);
  const answer = await request("POST", "v1/evaluations", { reconstruction_id: made.id, ...fields, ...guidance(state) });
  toast(answer.state === "succeeded" ? "This evaluation exists already." : `Evaluation ${answer.id} is queued; its figures appear below.`, { href: address(`evaluations/${answer.id}`), text: "Open" });
}

async function sweep(run, state, fields) {
  const grid = { run, ...fields, num_images: [state.num_images], ...guideGrid(state, fields.guidance ?? []) };
  if (state.tensors.length) grid.tensors = [tensorsOf(state)];
  const answer = await request("POST", "v1/sweeps", grid);
  toast(`Sweep ${answer.id} of ${answer.num_points} points is queued; its figures appear below.`, { href: address(`sweeps/${answer.id}`), text: "Open" });
}

/** The guide of the pictures as a sweep names it. */
function guideGrid(state, weights) {
  if (weights.every((weight) => weight === 1)) return {};
  const { dataset } = document.querySelector(`#explorer [name=guide_id] option[value="${state.guide_id}"]`);
  if (!dataset.sigma) return {};
  const grid = { guide: { run: dataset.run, num_images: [Number(dataset.images)], sigma_rel: [Number(dataset.sigma)] } };
  const { guidance_interval: interval } = guidance({ ...state, guidance: 2 });
  return interval ? { ...grid, guidance_interval: interval } : grid;
}

async function search(run, state, { low, high, ...fields }) {
  const answer = await request("POST", "v1/searches", { run, sigma_rel: [low, high], num_images: state.num_images, ...fields });
  toast(`Search ${answer.id} is queued; its figures appear below.`, { href: address(`searches/${answer.id}`), text: "Open" });
}

async function promote(run, state, fields) {
  const made = await reconstructed(run, state);
  const answer = await request("POST", "v1/models", { ...fields, reconstruction_id: made.id });
  toast(`Promoted as ${answer.reference}.`, { href: address(`models/${answer.reference}`), text: "Open" });
}

async function downloadWeights(run, state) {
  const made = await reconstructed(run, state);
  const link = document.createElement("a");
  link.href = address(`v1/reconstructions/${made.id}/download`);
  link.download = "";
  document.body.append(link);
  link.click();
  link.remove();
}
