// The page of a run: curves that grow while the run trains, and forms that show a plan before they act.
import { request } from "./api.js";
import { Plot } from "./plot.js";
import { short } from "./plot_scale.js";

const given = JSON.parse(document.getElementById("curves").textContent);
const COLOURS = ["blue", "orange", "green", "violet", "red", "soft"];
const PAGE = 500; // rows of one request
const series = new Map(); // name -> [[images, value], …]
let last = given.last;

for (const { times, values } of given.groups) {
  for (const [name, column] of Object.entries(values)) {
    series.set(name, times.map((time, row) => [time, column[row]]).filter((point) => point[1] !== null));
  }
}

const line = (name, title, colour) => ({ name: title, colour, kind: "line", points: series.get(name) ?? [] });

/** Curves of a chart, by name. */
const CHARTS = {
  loss: { yLog: true, curves: () => [line("loss", "with uncertainty", "blue"), line("denoising_loss", "plain", "orange")] },
  noise: {
    yLog: true,
    curves: () => {
      const names = [...series.keys()].filter((name) => name.startsWith("loss_by_noise/")).sort((a, b) => number(a) - number(b));
      return names.map((name, index) => line(name, given.noise[number(name)] ?? name, COLOURS[index % COLOURS.length]));
    },
  },
  learning_rate: { yZero: true, curves: () => [line("learning_rate", "learning rate", "green")] },
  grad_norm: { yLog: true, curves: () => [line("grad_norm", "gradient norm", "violet")] },
  images_per_second: { yZero: true, curves: () => [line("images_per_second", "images per second", "blue")] },
  activation: { yZero: true, curves: () => magnitudes("activation") },
  weight: { yZero: true, curves: () => magnitudes("weight") },
};

const number = (name) => Number(name.split("/")[1]);
const choice = document.getElementById("magnitudes-of");

/** One curve per side and resolution: the encoder's are solid, the decoder's dashed. */
function magnitudes(kind) {
  const [prefix, statistic] = choice.value.split("/");
  const found = [...series.keys()].map((name) => name.split("/")).filter((parts) => parts.length === 4 && parts[0] === prefix + kind && parts[3] === statistic);
  const sizes = [...new Set(found.map((parts) => Number(parts[2])))].sort((a, b) => b - a);
  return found
    .sort((a, b) => (a[1] === b[1] ? b[2] - a[2] : a[1] === "enc" ? -1 : 1))
    .map((parts) => ({
      ...line(parts.join("/"), `${parts[1] === "enc" ? "encoder" : "decoder"} ${parts[2]}×${parts[2]}`, COLOURS[sizes.indexOf(Number(parts[2])) % COLOURS.length]),
      dashed: parts[1] !== "enc",
    }));
}

const plots = new Map();

function draw() {
  document.getElementById("magnitudes").hidden = ![...series.keys()].some((name) => name.split("/").length === 4);
  for (const place of document.querySelectorAll("[data-chart]")) {
    const { curves, ...options } = CHARTS[place.dataset.chart];
    const shown = curves().filter((one) => one.points.length);
    place.hidden = !shown.length;
    if (!shown.length) continue;
    let plot = plots.get(place);
    if (!plot) {
      plot = new Plot(place.querySelector("svg"), { xLabel: "images", yLabel: place.getAttribute("aria-label").toLowerCase(), xFormat: short, ...options });
      plots.set(place, plot);
    }
    plot.draw(shown);
  }
}

/** Read the rows after the last one that is shown. */
async function follow() {
  for (let more = true; more; ) {
    const page = await request("GET", `v1/runs/${given.run}/metrics?after=${last}&limit=${PAGE}`).catch(() => ({ items: [], next_cursor: null }));
    for (const row of page.items) {
      for (const [name, value] of Object.entries(row.values)) {
        if (value === null) continue;
        const points = series.get(name) ?? series.set(name, []).get(name);
        points.push([row.num_images, value]);
      }
      last = row.num_images;
    }
    if (page.items.length) draw();
    more = page.next_cursor !== null && page.items.length > 0;
  }
}

let following = Promise.resolve();
document.addEventListener("phema:change", ({ detail }) => {
  if (detail?.run && detail.run.history_at <= last) return;
  following = following.then(follow);
});
choice.addEventListener("change", draw);
draw();
