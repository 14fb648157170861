// The weighting of the training history, wanted and reconstructed (Figure 4), each snapshot's share, and the plan's facts.
import { averageName } from "./explorer_state.js";
import { bytes, count, duration, error, setText } from "./formats.js";
import { Plot } from "./plot.js";
import { density, gammaOf, halfWeight, multiplier, times } from "./power_function.js";

const POINTS = 200;
const COLOURS = ["blue", "green", "violet", "red"];
const SHARES = [0.5, 0.75, 0.9, 0.95];

const element = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;

export class ProfileView {
  /** `runName` for the lineage. */
  constructor(runName) {
    this.runName = runName;
    this.plot = new Plot(element("profile-plot"), { xLabel: "images seen in training", yLabel: "weight per share of training", xFormat: count, yZero: true, name: "Weighting of the training history" });
    this.shares = new Plot(element("shares-plot"), { xLabel: "time of the snapshot in images", yLabel: "coefficient", xFormat: count, name: "Coefficient of each snapshot" });
    this.answer = null;
  }

  /** Draw the wanted curve at once, as far as the browser can compute it. `latest`: the end of the axis. */
  want(state, latest) {
    this.state = state;
    this.latest = latest;
    const { kind, sigma_rel: sigma } = state.profile;
    this.guess = null;
    if (kind === "power" && sigma) {
      const gamma = gammaOf(sigma);
      this.guess = times(state.num_images, POINTS).map((tau) => [tau, density(gamma, tau, state.num_images)]);
      this.say(state, SHARES.map((share) => ({ share, multiplier: multiplier(gamma, share) })));
    }
    this.draw();
  }

  /** Show the answer of the API for the state that was wanted last. */
  show(answer, state) {
    this.answer = answer;
    const { plan } = answer;
    const [output] = plan.outputs;
    for (const place of document.querySelectorAll("[data-fact]")) setText(place, fact(place.dataset.fact, plan, output));
    setText(element("advice"), output.advice ?? "");
    element("advice").hidden = !output.advice;
    const stored = labelsOf(answer.shares).join(" and ");
    const source = plan.basis_id ? `basis ${plan.basis_id}, made from snapshots of ${stored}` : `${plan.snapshots.length} snapshots of ${stored}`;
    setText(element("lineage"), `Run ${this.runName} at ${count(plan.num_images)} images, ${averageName(state)}: ${source}. Errors are relative to the weights, predicted ${plan.calibrated ? "and calibrated with this run's snapshots" : "with typical values of other runs"}.`);
    if (!this.guess) this.say(state, output.learning_rate.map((one) => ({ share: one.num_images / plan.num_images, multiplier: one.multiplier })));
    this.drawShares();
    this.draw();
  }

  /** The sentences about the average's length and the learning rate it stands for. */
  say(state, multipliers) {
    const { profile, num_images: t } = state;
    const parts = [];
    if (profile.kind === "power" && profile.sigma_rel) {
      const gamma = gammaOf(profile.sigma_rel);
      parts.push(`The averaging weights have a standard deviation of ${count(profile.sigma_rel * t)} images, and half of the weight lies in the last ${count(halfWeight(gamma, t))}.`);
    }
    const at = multipliers.reduce((a, b) => (Math.abs(b.share - 0.9) < Math.abs(a.share - 0.9) ? b : a), multipliers[0]);
    if (at) {
      const others = multipliers.filter((one) => one !== at).map((one) => `${percent(one.multiplier)} at ${percent(one.share)}`);
      parts.push(`This average acts like a learning rate of ${percent(at.multiplier)} at ${percent(at.share)} of training (${others.join(", ")}).`);
    }
    setText(element("meaning"), parts.join(" "));
  }

  draw() {
    const { answer, guess } = this;
    const series = (answer?.curves ?? []).flatMap((curve, index) => {
      const name = curve.pattern ?? "";
      const points = (values) => curve.times.map((time, i) => [time, values[i]]);
      return [
        curve.reconstructed && { name: `reconstructed ${name}`.trim(), colour: COLOURS[index % COLOURS.length], kind: index ? "line" : "area", points: points(curve.reconstructed) },
        (curve.wanted || (guess && !index)) && { name: `wanted ${name}`.trim(), colour: index ? "soft" : "orange", dashed: true, points: !index && guess ? guess : points(curve.wanted) },
      ].filter(Boolean);
    });
    if (!answer && guess) series.push({ name: "wanted", colour: "orange", dashed: true, points: guess });
    const markers = [{ x: this.state?.num_images ?? this.latest, label: "" }];
    this.plot.draw(series, { markers, xDomain: [0, this.latest] });
  }

  drawShares() {
    const { shares } = this.answer;
    const labels = labelsOf(shares);
    const series = labels.map((label, index) => ({
      name: `EMA ${label}`,
      colour: ["blue", "orange", "green", "violet"][index % 4],
      kind: "bars",
      slot: [index, labels.length],
      points: shares.filter((one) => one.label === label).map((one) => [one.num_images, one.coefficients[0]]),
    }));
    this.shares.draw(series, { xDomain: [0, this.latest * 1.02] });
  }
}

/** Labels of the stored EMAs, shortest average first. */
const labelsOf = (shares) => [...new Map([...shares].sort((a, b) => (a.sigma_rel ?? 1) - (b.sigma_rel ?? 1)).map((one) => [one.label, 0])).keys()];

function fact(name, plan, output) {
  switch (name) {
    case "bytes_to_read": return bytes(plan.bytes_to_read);
    case "snapshots": return count(plan.snapshots.length);
    case "seconds": return duration(plan.seconds);
    default: return error(output[name]);
  }
}
