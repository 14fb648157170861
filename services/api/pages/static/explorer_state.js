// The state of the explorer: read from its form, as an address, and as the bodies of requests.
import { count } from "./formats.js";

const FIELDS = {
  power: ["sigma_rel"],
  lr_decay: ["shape", "length_images", "start_images"],
  uniform: ["window_images", "last_times"],
  exponential: ["half_life_images", "rampup_ratio"],
  sampled: ["times", "weights"],
  raw: [],
  json: [],
};
const LISTS = ["times", "weights"];

const numberOf = (text) => (text.trim() === "" ? null : Number(text));
const numbersOf = (text) => text.split(/[\s,]+/).filter(Boolean).map(Number);

/** The state of the form as plain data. Throws SyntaxError for a profile that is not JSON. */
export function readState(form) {
  const value = (name) => form.elements[name].value;
  const kind = value("kind");
  const profile = kind === "json" ? JSON.parse(value("profile")) : { kind };
  for (const name of FIELDS[kind]) {
    const given = name === "shape" ? value(name) : LISTS.includes(name) ? numbersOf(value(name)) : numberOf(value(name));
    if (given !== null) profile[name] = given;
  }
  const tensors = [...form.querySelectorAll(".tensor-row")]
    .map((row) => [row.querySelector("[data-part=pattern]").value.trim(), numberOf(row.querySelector("[data-part=sigma]").value)])
    .filter(([pattern, sigma]) => pattern && sigma !== null);
  return {
    profile,
    asJson: kind === "json",
    tensors,
    num_images: numberOf(value("num_images")),
    guidance: numberOf(value("guidance")) ?? 1,
    guide_id: value("guide_id"),
    guidance_low: numberOf(value("guidance_low")),
    guidance_high: numberOf(value("guidance_high")),
    num_steps: numberOf(value("num_steps")),
    seed: numberOf(value("seed")) ?? 0,
    class_label: value("class_label").trim() || "random",
  };
}

/** The state as a query; fields with their usual value are left out. `figure`: the chosen figure, if any. */
export function toQuery(state, { steps, figure }) {
  const query = new URLSearchParams();
  const { kind, ...fields } = state.profile;
  if (state.asJson) query.set("profile", JSON.stringify(state.profile));
  else if (kind !== "power") query.set("kind", kind);
  if (!state.asJson) for (const [name, value] of Object.entries(fields)) query.set(name, value);
  query.set("num_images", state.num_images);
  for (const [pattern, sigma] of state.tensors) query.append("tensor", `${pattern}=${sigma}`);
  if (state.num_steps !== steps) query.set("num_steps", state.num_steps);
  if (state.guidance !== 1) {
    query.set("guidance", state.guidance);
    for (const name of ["guide_id", "guidance_low", "guidance_high"]) if (state[name] !== null && state[name] !== "") query.set(name, state[name]);
  }
  if (state.seed !== 0) query.set("seed", state.seed);
  if (state.class_label !== "random") query.set("class_label", state.class_label);
  if (figure) query.set("figure", figure);
  return query;
}

/** The fields of a request that name the average and its time. */
export function wanted(state) {
  const { kind, ...fields } = state.profile;
  const body = kind === "power" && fields.sigma_rel !== undefined ? { sigma_rel: fields.sigma_rel } : { profiles: [{ kind, ...fields }] };
  if (state.tensors.length) body.tensors = tensorsOf(state);
  return { ...body, num_images: state.num_images };
}

/** The patterns as a request names them. */
export const tensorsOf = (state) => state.tensors.map(([pattern, sigma]) => ({ pattern, profile: { sigma_rel: sigma } }));

/** The fields of guidance; none without guidance. */
export function guidance(state) {
  if (state.guidance === 1) return {};
  const body = { guidance: state.guidance };
  if (state.guide_id) body.guide_id = state.guide_id;
  if (state.guidance_low !== null || state.guidance_high !== null) body.guidance_interval = [state.guidance_low ?? 0, state.guidance_high ?? 80];
  return body;
}

/** The fields of a preview that say how pictures are drawn. */
export function sampler(state, pictures) {
  const body = { seeds: `${state.seed}-${state.seed + pictures - 1}`, class_label: state.class_label, num_steps: state.num_steps };
  return { ...body, ...guidance(state) };
}

/** The average in words: "σ_rel 0.13". */
export function averageName({ profile, tensors }) {
  const own = tensors.length ? `, own lengths for ${tensors.map(([pattern]) => pattern).join(", ")}` : "";
  return nameOf(profile) + own;
}

function nameOf(profile) {
  switch (profile.kind) {
    case "power": return `σ_rel ${profile.sigma_rel}`;
    case "lr_decay": return `${profile.shape} learning-rate decay ${profile.length_images ? `over the last ${count(profile.length_images)} images` : `from ${count(profile.start_images)} images on`}`;
    case "uniform": return profile.last_times ? `mean of the last ${profile.last_times} stored times` : `mean of the last ${count(profile.window_images)} images`;
    case "exponential": return profile.half_life_images ? `exponential EMA with a half-life of ${count(profile.half_life_images)} images` : `exponential EMA with ramp-up ratio ${profile.rampup_ratio}`;
    case "sampled": return "sampled weights";
    case "raw": return "raw weights";
    default: return `${profile.kind ?? "profile"} ${JSON.stringify(profile)}`;
  }
}
