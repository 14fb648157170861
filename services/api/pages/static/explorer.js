// The EMA explorer: connects the form's sliders and fields with profile, pictures, measured curve, and address.
import { ApiError, request } from "./api.js";
import { listenToActions } from "./explorer_actions.js";
import { readState, toQuery, wanted } from "./explorer_state.js";
import { count } from "./formats.js";
import { refresh } from "./live.js";
import { MeasuredView } from "./measured_view.js";
import { afterQuiet, Newest } from "./newest.js";
import { gammaOf, SIGMA_LIMIT, sigmaOf } from "./power_function.js";
import { PreviewsView } from "./previews_view.js";
import { ProfileView } from "./profile_view.js";

const ADDRESS_MS = 200; // browsers refuse many changes of the address in a short time
const REFRESH_MS = 700;
const BACKGROUND = ["train", "external", "draw", "preview"]; // kinds of jobs that change nothing below the pictures

const form = document.getElementById("explorer");
const data = JSON.parse(document.getElementById("explorer-data").textContent);
const fields = form.elements;
const sigmaSlider = document.getElementById("sigma-slider");
const timeSlider = document.getElementById("time-slider");
const gammaField = document.getElementById("gamma");
const figureField = document.getElementById("figure");
const problem = document.getElementById("average-error");
const [low, high] = data.slider;
const steps = Number(sigmaSlider.max);

let stored = readStored();
let figure = new URLSearchParams(window.location.search).get("figure");
let shownTime = data.curves.plan.num_images;
let planned = ""; // the average whose plan is shown

function readStored() {
  return JSON.parse(document.getElementById("stored-data").textContent);
}

const profile = new ProfileView(data.run);
const measured = new MeasuredView({ run: data.run, slider: data.slider, onPick: (sigma) => chooseSigma(sigma) });
const previews = new PreviewsView({ run: data.run, pictures: data.pictures, plan: data.preview, onError: showBeside });
const curves = new Newest(askCurves);
const changeAddress = afterQuiet(ADDRESS_MS, () => {
  const query = toQuery(readState(form), { steps: data.steps, figure });
  history.replaceState(null, "", `${window.location.pathname}?${query}`);
  document.dispatchEvent(new CustomEvent("phema:address"));
});

// Between the slider's positions and EMA lengths, which are rounded so that equal positions ask for equal averages.
const sigmaAt = (position) => Number((low * (high / low) ** (position / steps)).toPrecision(3));
const positionOf = (sigma) => Math.round((steps * Math.log(Math.min(high, Math.max(low, sigma)) / low)) / Math.log(high / low));

function nearestTime(images) {
  return stored.times.reduce((best, time) => (Math.abs(time - images) < Math.abs(best - images) ? time : best), stored.times[0]);
}

/** Move sliders and dependent fields to the values of the fields. */
function follow(state) {
  if (!state.asJson && state.profile.kind === "power") {
    sigmaSlider.value = positionOf(state.profile.sigma_rel);
    sigmaSlider.setAttribute("aria-valuetext", `${state.profile.sigma_rel}`);
    if (document.activeElement !== gammaField) gammaField.value = Number(gammaOf(state.profile.sigma_rel).toPrecision(6));
  }
  timeSlider.max = stored.times.length - 1;
  timeSlider.value = stored.times.indexOf(nearestTime(state.num_images));
  timeSlider.disabled = stored.times.length < 2;
  timeSlider.setAttribute("aria-valuetext", `${count(state.num_images)} images`);
}

function chooseSigma(sigma) {
  if (fields.kind.value !== "power") {
    fields.kind.value = "power";
    showKind();
  }
  fields.sigma_rel.value = sigma;
  changed();
}

function showKind() {
  for (const part of form.querySelectorAll("[data-kind]")) {
    part.hidden = part.dataset.kind !== fields.kind.value;
    part.disabled = part.hidden;
  }
}

/** The state is another one: draw what is known at once, and ask for the rest. */
function changed() {
  clearProblems();
  let state;
  try {
    state = readState(form);
  } catch (error) {
    return complain(fields.profile, `The profile is not JSON: ${error.message}.`);
  }
  const sigma = state.profile.sigma_rel;
  if (!state.asJson && state.profile.kind === "power" && !(sigma > 0 && sigma < SIGMA_LIMIT)) {
    return complain(fields.sigma_rel, `σ_rel ${sigma ?? ""} must lie between 0 and 0.2887, the width of the mean of all training.`);
  }
  follow(state);
  profile.want(state, Math.max(...stored.times));
  measured.mark(sigma >= low * 0.95 && sigma <= high * 1.08 ? sigma : null);
  previews.want(state);
  if (JSON.stringify(wanted(state)) === planned) drawPictures();
  else curves.ask(state);
  if (state.num_images !== shownTime) {
    shownTime = state.num_images;
    askMeasured();
  }
}

function drawPictures() {
  previews.ask();
  changeAddress();
}

/** Ask for the measured curve, if there is one: the page knows which figures are measured at which times. */
function askMeasured() {
  const counts = stored.measured[shownTime] ?? {};
  if (figure ? counts[figure] : Object.keys(counts).length) measured.ask(shownTime, figure);
  else measured.show(null, shownTime);
}

async function askCurves(state, signal) {
  try {
    const answer = await request("POST", `v1/runs/${data.run}/profile-curves`, wanted(state));
    if (signal.aborted) return;
    planned = JSON.stringify(wanted(state));
    profile.show(answer, state);
    document.dispatchEvent(new CustomEvent("phema:curves", { detail: answer }));
    drawPictures(); // only now: the average is possible
  } catch (error) {
    if (!signal.aborted) showBeside(error);
  }
}

/** Show an error of the API beside the field that it names. */
function showBeside(error) {
  const names = error instanceof ApiError ? error.errors.flatMap(({ field }) => field.split(".").reverse()) : [];
  const field = names.map((name) => fields[name === "guidance_interval" ? "guidance_low" : name]).find((one) => one instanceof HTMLElement && !one.disabled);
  complain(field ?? null, error.message);
  return true;
}

function complain(field, sentence) {
  problem.textContent = sentence;
  problem.hidden = false;
  field?.setAttribute("aria-invalid", "true");
  field?.setAttribute("aria-describedby", problem.id);
}

function clearProblems() {
  problem.hidden = true;
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}

sigmaSlider.addEventListener("input", () => chooseSigma(sigmaAt(Number(sigmaSlider.value))));
gammaField.addEventListener("input", () => {
  const gamma = Number(gammaField.value);
  if (gamma > 0) chooseSigma(sigmaOf(gamma));
});
timeSlider.addEventListener("input", () => {
  fields.num_images.value = stored.times[Number(timeSlider.value)];
  changed();
});
fields.num_images.addEventListener("change", () => {
  fields.num_images.value = nearestTime(Number(fields.num_images.value));
  changed();
});
form.addEventListener("input", (event) => {
  if (event.target === fields.kind) showKind();
  if ([sigmaSlider, timeSlider, gammaField, fields.num_images, figureField].includes(event.target)) return;
  changed();
});
form.addEventListener("submit", (event) => event.preventDefault());
figureField.addEventListener("change", () => {
  figure = figureField.value;
  askMeasured();
  changeAddress();
});
document.getElementById("add-tensor").addEventListener("click", (event) => {
  const row = document.getElementById("tensor-row").content.cloneNode(true);
  document.getElementById("tensor-rows").append(row);
  document.querySelector("#tensor-rows .tensor-row:last-child input").focus();
  event.preventDefault();
});
document.getElementById("tensor-rows").addEventListener("click", (event) => {
  if (!event.target.closest("[data-remove]")) return;
  event.target.closest(".tensor-row").remove();
  changed();
});

// Live: new snapshots extend the time, finished work changes what is stored and measured.
const refreshStored = afterQuiet(REFRESH_MS, async () => {
  await refresh("[data-live=own]");
  const before = JSON.stringify(stored.measured);
  stored = readStored();
  if (JSON.stringify(stored.measured) !== before) askMeasured();
  follow(readState(form));
});
document.addEventListener("phema:change", ({ detail }) => {
  if (detail?.run && detail.run.snapshot_at > Math.max(...stored.times)) refreshStored();
  if (!detail?.job || BACKGROUND.includes(detail.job.kind)) return;
  refreshStored();
});

// "The same by" belongs to the address. It is fetched when somebody looks at it.
const sameBy = document.querySelector("details.same-by");
const sameByRequests = new Newest(async (address, signal) => {
  const answer = await fetch(address, { headers: { Accept: "text/html" } }).catch(() => null);
  const fresh = answer?.ok && new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("details.same-by");
  if (fresh && !signal.aborted) sameBy.replaceChildren(...fresh.children);
});
const refreshSameBy = () => sameBy?.open && sameByRequests.ask(window.location.href);
sameBy?.addEventListener("toggle", refreshSameBy);
document.addEventListener("phema:address", refreshSameBy);

listenToActions({ run: data.run, state: () => readState(form) });
const first = readState(form);
follow(first);
profile.want(first, Math.max(...stored.times));
profile.show(data.curves, first);
measured.mark(first.profile.sigma_rel ?? null);
measured.show(data.measured, shownTime);
planned = JSON.stringify(wanted(first));
if (data.preview) {
  previews.want(first);
  previews.ask();
}
