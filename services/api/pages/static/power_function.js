// Power-function EMAs (Karras et al. 2024, Section 3.1 and Appendix C): the weight of time τ in the average at time t
// is proportional to τ^γ. So that the wanted curve follows the slider without a request.

export const SIGMA_LIMIT = 12 ** -0.5;

/** γ of a relative width: the largest root of γ³ + 7γ² + (16 - s)γ + (12 - s) with s = σ_rel^-2 (Algorithm 2). */
export function gammaOf(sigma) {
  const s = sigma ** -2;
  const p = 16 - s - 49 / 3;
  const q = 686 / 27 - (7 * (16 - s)) / 3 + (12 - s);
  const cosine = ((3 * q) / (2 * p)) * Math.sqrt(-3 / p);
  const gamma = 2 * Math.sqrt(-p / 3) * Math.cos(Math.acos(Math.max(-1, Math.min(1, cosine))) / 3) - 7 / 3;
  // One step of Newton's method against rounding.
  const value = ((gamma + 2) ** 2 * (gamma + 3)) / (gamma + 1);
  return gamma - (value - s) / (value * (2 / (gamma + 2) + 1 / (gamma + 3) - 1 / (gamma + 1)));
}

/** Relative width of an exponent (Eq. 126). */
export const sigmaOf = (gamma) => Math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)));

/** Weight per share of training, at time τ of the average at time t. */
export const density = (gamma, tau, t) => (tau > t ? 0 : (gamma + 1) * (tau / t) ** gamma);

/** Images before the end in which half of the weight lies. */
export const halfWeight = (gamma, t) => t * (1 - 0.5 ** (1 / (gamma + 1)));

/** By what the average multiplies the learning rate at a share of the training. */
export const multiplier = (gamma, share) => 1 - share ** (gamma + 1);

/** Times for drawing, half of them evenly spaced, half ever closer to the end. */
export function times(t, points) {
  const half = Math.floor(points / 2);
  const even = Array.from({ length: points - half }, (_, i) => (i + 1) / (points - half));
  const late = Array.from({ length: half }, (_, i) => 1 - 1e-4 ** (1 - i / half));
  return [...even, ...late].sort((a, b) => a - b).map((share) => share * t);
}
