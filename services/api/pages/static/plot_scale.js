// Scales of plots: from values to pixels, and the ticks of an axis.

/** A linear or logarithmic scale from `domain` [low, high] to `range` [from, to] in pixels. */
export class Scale {
  constructor(domain, range, log = false) {
    this.log = log;
    this.domain = domain;
    this.range = range;
    this.low = this.inner(domain[0]);
    this.factor = (range[1] - range[0]) / (this.inner(domain[1]) - this.low || 1);
  }

  inner(value) {
    return this.log ? Math.log(value) : value;
  }

  /** The pixel of a value. */
  at(value) {
    return this.range[0] + (this.inner(value) - this.low) * this.factor;
  }

  /** The value at a pixel. */
  value(pixel) {
    const inner = this.low + (pixel - this.range[0]) / this.factor;
    return this.log ? Math.exp(inner) : inner;
  }

  /** About `count` round values inside the domain. */
  ticks(count) {
    const [low, high] = this.domain;
    if (!this.log || high / low < 3) return linearTicks(low, high, count);
    return logTicks(low, high, count);
  }
}

function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high, count) {
  const all = (factors, every) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += every) {
      for (const factor of factors) ticks.push(Number((factor * 10 ** power).toPrecision(6)));
    }
    return ticks.filter((tick) => tick >= low * 0.9999 && tick <= high * 1.0001);
  };
  for (const factors of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const ticks = all(factors, 1);
    if (ticks.length <= count + 1) return ticks;
  }
  return all([1], Math.ceil(Math.log10(high / low) / count));
}

/** The domain of values, with a margin; `zero` includes 0. Values that a logarithm cannot show are left out. */
export function domainOf(values, { log = false, zero = false, margin = 0 } = {}) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || !Number.isFinite(value) || (log && value <= 0)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (zero && !log) [low, high] = [Math.min(0, low), Math.max(0, high)];
  if (low === high) return log ? [low / 1.5, high * 1.5] : [low - (Math.abs(low) || 1) * 0.5, high + (Math.abs(high) || 1) * 0.5];
  if (log) {
    const factor = (high / low) ** margin;
    return [low / factor, high * factor];
  }
  const extra = (high - low) * margin;
  return [zero && low === 0 ? 0 : low - extra, zero && high === 0 ? 0 : high + extra];
}

/** A number in few characters: 12.8k, 0.05, 3e-5. */
export function short(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (size >= unit) return `${Number((value / unit).toPrecision(3))}${letter}`;
  return size < 1e-3 ? value.toExponential(size < 1e-99 ? 0 : 1).replace(".0e", "e") : `${Number(value.toPrecision(3))}`;
}
