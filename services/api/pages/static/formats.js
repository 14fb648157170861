// Numbers in words, as the server's pages write them (formatting.py).
const DASH = "–";

/** 12,800 */
export const count = (value) => (value === null || value === undefined ? DASH : Math.round(value).toLocaleString("en-US"));

/** 12.3 MiB */
export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  for (const [power, unit] of [[40, "TiB"], [30, "GiB"], [20, "MiB"], [10, "KiB"]]) if (value >= 2 ** power) return `${digits(value / 2 ** power, 3)} ${unit}`;
  return `${Math.round(value)} B`;
}

/** A measured value with four significant digits. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  const size = Math.abs(value);
  return size === 0 || (size >= 1e-3 && size < 1e5) ? digits(value, 4) : value.toExponential(3);
}

/** A relative error as a percentage: 0.012 % */
export function error(value) {
  if (value === null || value === undefined) return DASH;
  return value > 0 && value < 1e-6 ? "< 0.0001 %" : `${digits(100 * value, 2)} %`;
}

/** 45 s, 12 min, 3.4 h */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return DASH;
  if (seconds < 1) return `${digits(seconds, 1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

/** At most `most` significant digits, without trailing zeros. */
export function digits(value, most) {
  const size = Math.abs(value);
  return size !== 0 && size < 1e-4 ? value.toExponential(most - 1) : `${Number(value.toPrecision(most))}`;
}

/** Fill the element with this text if it shows another one. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
