// Plots that follow a slider or live data. Figures that do not move are drawn by the server (shared/pictures).
//
//   const plot = new Plot(svg, { xLabel: "images", yLabel: "loss", yLog: true, onPick: ({ series, point }) => … });
//   plot.draw([{ name: "loss", colour: "blue", points: [[x, y], [x, y, error], …], kind: "line" }], { markers: [{ x, label }] });
//
// kind: line, area, bars (from 0 or the axis), points (with error bars). colour: blue, orange, green, violet, red, soft.
// slot: [i, n] draws bars as the i-th of n beside each other. dashed: true draws a dashed line. A null y interrupts a
// line. Points of lines and areas are in order of x.
// Options: xLabel, yLabel, xLog, yLog, xDomain, yDomain ([low, high]), yZero (0 is in view), xFormat, yFormat (from a
// value to text), onPick (click or Enter: {series, point, index, x}), name (text for screen readers).
// Arrow keys move the readout over the points, and Enter picks. All values stand in a table below the plot.
import { Scale, domainOf, short } from "./plot_scale.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST_ROWS = 400; // of the table of values
const REACH = 40; // pixels from the pointer within which a point can be picked

function make(name, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

const n = (value) => Math.round(value * 10) / 10;
const shown = (point) => point[1] !== null && Number.isFinite(point[1]);

export class Plot {
  constructor(svg, options = {}) {
    this.svg = svg;
    this.options = { xFormat: short, yFormat: short, margin: { left: 52, right: 14, top: 12, bottom: 40 }, ...options };
    this.series = [];
    this.markers = [];
    this.cursor = null; // {x, keyboard}
    this.box = document.createElement("div");
    this.box.className = "plot";
    svg.replaceWith(this.box);
    this.legend = document.createElement("ul");
    this.legend.className = "legend";
    this.readout = document.createElement("p");
    this.readout.className = "readout";
    this.readout.setAttribute("aria-live", "polite");
    this.values = document.createElement("details");
    this.values.className = "values";
    this.values.innerHTML = '<summary>Values</summary><div class="scroll" tabindex="0" role="group"></div>';
    this.box.append(this.legend, svg, this.readout, this.values);
    svg.setAttribute("role", "img");
    svg.setAttribute("tabindex", "0");
    svg.classList.toggle("pickable", Boolean(options.onPick));
    this.layers = Object.fromEntries(["axes", "curves", "markers", "cursor"].map((name) => [name, svg.appendChild(make("g", { class: name }))]));
    this.listen();
    this.observer = new ResizeObserver(() => this.paintSoon());
    this.observer.observe(svg);
  }

  /** Show these series instead of the former ones. `options` may also replace those of the constructor. */
  draw(series, { markers = [], ...options } = {}) {
    this.series = series;
    this.markers = markers;
    Object.assign(this.options, options);
    this.paintSoon();
  }

  /** Move the markers only. */
  mark(markers) {
    this.markers = markers;
    this.paintSoon();
  }

  /** Stop watching the size of the plot. */
  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
  }

  paintSoon() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  paint() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (width < 40 || height < 40) return;
    const { margin, xLog, yLog, xDomain, yDomain, yZero } = this.options;
    const all = this.series.flatMap((one) => one.points);
    const bars = this.series.some((one) => one.kind === "bars" || one.kind === "area");
    const heights = all.flatMap((point) => (point[2] ? [point[1] - point[2], point[1] + point[2]] : [point[1]]));
    this.x = new Scale(xDomain ?? domainOf(all.map((point) => point[0]), { log: xLog, margin: 0.02 }), [margin.left, width - margin.right], xLog);
    this.y = new Scale(yDomain ?? domainOf(heights, { log: yLog, zero: yZero || bars, margin: 0.06 }), [height - margin.bottom, margin.top], yLog);
    this.paintAxes(width, height);
    this.paintCurves();
    this.paintMarkers();
    this.paintCursor();
    this.describe();
  }

  paintAxes(width, height) {
    const { margin, xLabel = "", yLabel = "", xFormat, yFormat } = this.options;
    const key = JSON.stringify([width, height, this.x.domain, this.y.domain, xLabel, yLabel]);
    if (key === this.axesKey) return;
    this.axesKey = key;
    this.svg.setAttribute("viewBox", `0 0 ${n(width)} ${n(height)}`);
    const bottom = height - margin.bottom;
    const parts = [];
    for (const tick of this.y.ticks(Math.max(3, Math.floor((bottom - margin.top) / 34)))) {
      const y = n(this.y.at(tick));
      parts.push(make("line", { class: "grid", x1: margin.left, x2: n(width - margin.right), y1: y, y2: y }));
      parts.push(make("text", { x: margin.left - 7, y: y + 4, "text-anchor": "end" }, yFormat(tick)));
    }
    parts.push(make("line", { class: "axis", x1: margin.left, x2: n(width - margin.right), y1: n(bottom), y2: n(bottom) }));
    for (const tick of this.x.ticks(Math.max(2, Math.floor((width - margin.left - margin.right) / 70)))) {
      const x = n(this.x.at(tick));
      parts.push(make("line", { class: "axis", x1: x, x2: x, y1: n(bottom), y2: n(bottom + 4) }));
      parts.push(make("text", { x, y: n(bottom + 17), "text-anchor": "middle" }, xFormat(tick)));
    }
    parts.push(make("text", { class: "label", x: n((margin.left + width - margin.right) / 2), y: n(height - 6), "text-anchor": "middle" }, xLabel));
    parts.push(make("text", { class: "label", transform: `translate(12 ${n((margin.top + bottom) / 2)}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
    this.layers.axes.replaceChildren(...parts);
  }

  paintCurves() {
    const layer = this.layers.curves;
    const wanted = this.series.flatMap((one) => this.paths(one).map(([kind, d]) => [`${kind} ${one.colour ?? "blue"}${one.dashed ? " dashed" : ""}`, d]));
    while (layer.childElementCount > wanted.length) layer.lastChild.remove();
    wanted.forEach(([name, d], index) => {
      const path = layer.children[index] ?? layer.appendChild(make("path"));
      if (path.getAttribute("class") !== name) path.setAttribute("class", name);
      path.setAttribute("d", d);
    });
  }

  /** Paths of one series as [kind, d]. */
  paths({ points, kind = "line", width = 0.8, slot = [0, 1] }) {
    const { x, y } = this;
    const base = y.log ? y.range[0] : y.at(Math.max(y.domain[0], Math.min(0, y.domain[1])));
    if (kind === "bars") {
      const [index, slots] = slot;
      const half = Math.max(0.75, (this.step(points) * width) / 2 / slots);
      const left = (px) => x.at(px) + (2 * index - slots) * half;
      return [["bars", points.filter(shown).map(([px, py]) => `M${n(left(px))} ${n(base)}V${n(y.at(py))}h${n(2 * half)}V${n(base)}z`).join("")]];
    }
    if (kind === "points") {
      const bars = points.filter((point) => shown(point) && point[2]).map(([px, py, error]) => {
        const [low, high] = [y.at(y.log ? Math.max(py - error, y.domain[0]) : py - error), y.at(py + error)].map(n);
        return `M${n(x.at(px))} ${low}V${high}m-3 0h6M${n(x.at(px) - 3)} ${low}h6`;
      });
      const dots = points.filter(shown).map(([px, py]) => `M${n(x.at(px) - 3.5)} ${n(y.at(py))}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0`);
      return [["errors", bars.join("")], ["points", dots.join("")]];
    }
    let line = "";
    let pen = false;
    const area = [];
    for (const [px, py] of this.thin(points)) {
      if (py === null || !Number.isFinite(py) || (y.log && py <= 0)) {
        pen = false;
        continue;
      }
      const at = `${n(x.at(px))} ${n(y.at(py))}`;
      line += pen ? `L${at}` : `M${at}`;
      area.push(at);
      pen = true;
    }
    if (kind !== "area" || !area.length) return [["line", line]];
    return [["area", `M${area[0].split(" ")[0]} ${n(base)}L${area.join("L")}V${n(base)}z`], ["line", line]];
  }

  /** Pixels between neighbouring bars. */
  step(points) {
    let least = this.x.range[1] - this.x.range[0];
    for (let i = 1; i < points.length; i++) {
      const gap = Math.abs(this.x.at(points[i][0]) - this.x.at(points[i - 1][0]));
      if (gap > 0.01) least = Math.min(least, gap);
    }
    return Math.min(least, 40);
  }

  /** At most four points per pixel: the first, lowest, highest and last. */
  thin(points) {
    const columns = Math.max(50, Math.round(this.x.range[1] - this.x.range[0]));
    if (points.length <= 4 * columns) return points;
    const kept = [];
    const size = points.length / columns;
    for (let column = 0; column < columns; column++) {
      const part = points.slice(Math.floor(column * size), Math.floor((column + 1) * size)).filter(shown);
      if (!part.length) continue;
      const low = part.reduce((a, b) => (b[1] < a[1] ? b : a));
      const high = part.reduce((a, b) => (b[1] > a[1] ? b : a));
      kept.push(...[...new Set([part[0], low, high, part.at(-1)])].sort((a, b) => a[0] - b[0]));
    }
    return kept;
  }

  paintMarkers() {
    const { margin } = this.options;
    const parts = this.markers.filter(({ x }) => x >= this.x.domain[0] * 0.999 && x <= this.x.domain[1] * 1.001).flatMap(({ x, label = "" }) => {
      const at = n(this.x.at(x));
      const right = at > this.x.range[1] - 90;
      return [
        make("line", { x1: at, x2: at, y1: margin.top, y2: n(this.y.range[0]) }),
        make("text", { x: right ? at - 5 : at + 5, y: margin.top + 9, "text-anchor": right ? "end" : "start" }, label),
      ];
    });
    this.layers.markers.replaceChildren(...parts);
  }

  listen() {
    const { svg } = this;
    const at = (event) => event.clientX - svg.getBoundingClientRect().left;
    svg.addEventListener("pointermove", (event) => this.moveCursor(this.nearest(at(event), event.clientY - svg.getBoundingClientRect().top)));
    svg.addEventListener("pointerleave", () => { if (!this.cursor?.keyboard) this.moveCursor(null); });
    svg.addEventListener("click", (event) => {
      const found = this.nearest(at(event), event.clientY - svg.getBoundingClientRect().top);
      this.moveCursor(found);
      if (found) this.pick(found);
    });
    svg.addEventListener("blur", () => this.moveCursor(null));
    svg.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
      if (event.key === "Enter" && this.cursor) this.pick(this.cursor);
      else if (event.key in steps) this.stepCursor(steps[event.key]);
      else return;
      event.preventDefault();
    });
    this.values.addEventListener("toggle", () => this.describe());
  }

  /** The point nearest to a place in the plot, by x, and of several with the same x by y. */
  nearest(px, py) {
    let best = null;
    for (const series of this.series) {
      series.points.forEach((point, index) => {
        if (!shown(point)) return;
        const distance = Math.abs(this.x.at(point[0]) - px) + 0.05 * Math.abs(this.y.at(point[1]) - py);
        if (!best || distance < best.distance) best = { series, point, index, x: point[0], distance };
      });
    }
    return best && Math.abs(this.x.at(best.x) - px) <= Math.max(REACH, this.step(best.series.points)) ? best : null;
  }

  stepCursor(steps) {
    const series = this.cursor?.series ?? this.series.find((one) => one.points.some(shown));
    if (!series) return;
    const current = this.series.includes(series) ? this.cursor?.index : undefined;
    const last = series.points.length - 1;
    const index = current === undefined ? (steps < 0 ? last : 0) : Math.min(last, Math.max(0, current + steps));
    this.moveCursor({ series, point: series.points[index], index, x: series.points[index][0], keyboard: true });
  }

  moveCursor(found) {
    this.cursor = found;
    this.paintCursor();
  }

  pick({ series, point, index, x }) {
    this.options.onPick?.({ series, point, index, x });
  }

  paintCursor() {
    const { margin, xFormat, xLabel = "x" } = this.options;
    if (!this.cursor || !this.x || this.cursor.x < this.x.domain[0] || this.cursor.x > this.x.domain[1]) {
      this.layers.cursor.replaceChildren();
      this.readout.textContent = "";
      return;
    }
    const x = n(this.x.at(this.cursor.x));
    const parts = [make("line", { x1: x, x2: x, y1: margin.top, y2: n(this.y.range[0]) })];
    const said = [];
    for (const { name, colour = "blue", points } of this.series) {
      const point = closest(points, this.cursor.x, this.x);
      if (!point) continue;
      parts.push(make("circle", { class: colour, cx: n(this.x.at(point[0])), cy: n(this.y.at(point[1])), r: 4 }));
      said.push(`${name} ${this.withError(point)}`);
    }
    this.layers.cursor.replaceChildren(...parts);
    this.readout.textContent = `${xLabel} ${xFormat(this.cursor.x)}: ${said.join(", ")}`;
  }

  withError([, y, error]) {
    const { yFormat } = this.options;
    return y === null ? "–" : error ? `${yFormat(y)} ± ${yFormat(error)}` : yFormat(y);
  }

  /** Legend, name for screen readers, and the table of values if it is open. */
  describe() {
    const { xLabel = "x", yLabel = "y", name } = this.options;
    const names = this.series.map((one) => one.name).join(", ");
    this.svg.setAttribute("aria-label", `${name ?? `${yLabel} over ${xLabel}`}: ${names || "no values"}. The values are in the table below.`);
    const legend = JSON.stringify(this.series.map((one) => [one.name, one.colour, one.kind, one.dashed]));
    if (legend !== this.legendKey) {
      this.legendKey = legend;
      this.legend.hidden = this.series.length < 2;
      this.legend.replaceChildren(...this.series.map(({ name: text, colour = "blue", kind = "line", dashed }) => {
        const item = document.createElement("li");
        const key = document.createElement("span");
        key.className = `key ${kind} ${colour}${dashed ? " dashed" : ""}`;
        item.append(key, text);
        return item;
      }));
    }
    const place = this.values.lastElementChild;
    place.setAttribute("aria-label", `Values: ${yLabel} over ${xLabel}`);
    if (this.values.open) place.replaceChildren(this.table());
  }

  table() {
    const { xLabel = "x", xFormat } = this.options;
    const table = document.createElement("table");
    const rows = new Map();
    this.series.forEach((one, column) => {
      const every = Math.ceil(one.points.length / MOST_ROWS);
      one.points.forEach((point, index) => {
        if (index % every) return;
        const cells = rows.get(point[0]) ?? rows.set(point[0], []).get(point[0]);
        cells[column] = this.withError(point);
      });
    });
    const row = (tag, cells) => {
      const line = document.createElement("tr");
      for (const text of cells) line.appendChild(document.createElement(tag)).textContent = text ?? "";
      return line;
    };
    table.createTHead().append(row("th", [xLabel, ...this.series.map((one) => one.name)]));
    const body = table.createTBody();
    const sorted = [...rows].sort((a, b) => a[0] - b[0]);
    body.append(...sorted.map(([x, cells]) => row("td", [xFormat(x), ...this.series.map((_, column) => cells[column])])));
    return table;
  }
}

/** The point whose x is closest, if it is close enough to be read off together. */
function closest(points, x, scale) {
  let best = null;
  for (const point of points) {
    if (shown(point) && (!best || Math.abs(point[0] - x) < Math.abs(best[0] - x))) best = point;
  }
  return best && Math.abs(scale.at(best[0]) - scale.at(x)) < 12 ? best : null;
}
