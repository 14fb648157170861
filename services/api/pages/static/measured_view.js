// Measured figures over the EMA length at one time, with their standard errors. A click goes to a point.
import { address, ApiError, request } from "./api.js";
import { count, digits, figure as shown, setText } from "./formats.js";
import { Newest } from "./newest.js";
import { Plot } from "./plot.js";

const element = (id) => document.getElementById(id);

export class MeasuredView {
  /** `onPick(sigma_rel)` goes to a point. */
  constructor({ run, slider, onPick }) {
    this.run = run;
    this.sigma = null;
    this.plot = new Plot(element("measured-plot"), { xLabel: "EMA length σ_rel", xLog: true, xDomain: [slider[0] * 0.95, slider[1] * 1.08], yFormat: (value) => digits(value, 3), xFormat: (value) => digits(value, 4), onPick: ({ point }) => onPick(point[0]) });
    this.queue = new Newest((wanted, signal) => this.load(wanted, signal));
  }

  /** Move the mark of the present EMA length; null without one. */
  mark(sigma) {
    this.sigma = sigma;
    this.plot.mark(this.markers());
  }

  markers() {
    return this.sigma === null ? [] : [{ x: this.sigma, label: `${this.sigma}` }];
  }

  /** Fetch the curve of this time and figure. */
  ask(numImages, figure) {
    this.queue.ask({ numImages, figure });
  }

  async load({ numImages, figure }, signal) {
    const query = new URLSearchParams({ run: this.run, num_images: numImages });
    if (figure) query.set("figure", figure);
    try {
      const analysis = await request("GET", `v1/analyses/ema-length?${query}`);
      if (!signal.aborted) this.show(analysis, numImages);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 409) this.show(null, numImages);
      else setText(element("measured-sentence"), error.message);
    }
  }

  /** Draw an analysis of the API; null: nothing is measured at this time. */
  show(analysis, numImages) {
    const rows = (analysis?.rows ?? []).filter((row) => row.sigma_rel !== null);
    const points = (kept) => rows.filter(kept).map((row) => [row.sigma_rel, row.value, row.standard_error]);
    const title = analysis?.title ?? "figure";
    const series = [
      { name: title, colour: "soft", points: points(() => true).map(([x, y]) => [x, y]) },
      { name: "cannot be told from the best", colour: "blue", kind: "points", points: points((row) => row.tied && !row.best) },
      { name: "worse", colour: "soft", kind: "points", points: points((row) => !row.tied && !row.best) },
      { name: "best", colour: "green", kind: "points", points: points((row) => row.best) },
    ].filter((one) => one.points.length);
    this.plot.draw(series, { yLabel: analysis?.figure ?? "figure", name: `${title} over the EMA length`, markers: this.markers() });
    element("measured-plot").classList.toggle("pickable", rows.length > 0);
    setText(element("measured-sentence"), this.sentence(rows, numImages));
    this.lineage(analysis, rows, numImages);
  }

  sentence(rows, numImages) {
    if (!rows.length) return `No EMA length is evaluated at ${count(numImages)} images yet. Evaluate this one, or start a sweep.`;
    const best = rows.find((row) => row.best);
    const tied = rows.filter((row) => row.tied && !row.best).length;
    const error = best?.standard_error ? ` ± ${digits(best.standard_error, 2)}` : "";
    const others = rows.length - 1;
    const rest = others === 0 ? "" : tied ? ` ${tied} of the ${others} others cannot be told from it.` : " All others are worse.";
    return best ? `Best: ${shown(best.value)}${error} at σ_rel ${best.sigma_rel}.${rest}` : "";
  }

  lineage(analysis, rows, numImages) {
    const place = element("measured-lineage");
    if (!analysis) return void place.replaceChildren();
    const { recipe } = analysis;
    const left = analysis.left_out ? ` ${analysis.left_out} other evaluations of the run cannot be compared with these.` : "";
    place.replaceChildren(`Run ${this.run} at ${count(numImages)} images: ${analysis.figure} of ${count(recipe.num_samples ?? rows[0]?.num_samples)} pictures per point, ${recipe.num_steps ?? "several numbers of"} steps, guidance ${rows[0]?.guidance ?? 1}. Bars are standard errors. Evaluations of `);
    rows.forEach((row, index) => {
      const link = document.createElement("a");
      link.href = address(`evaluations/${row.evaluation_id}`);
      link.textContent = `${row.label}`;
      place.append(index ? ", " : "", link);
    });
    place.append(`.${left}`);
  }
}
