// The form for a new run: shows the preset's values, and sends further fields that are typed as lines "name = value".
import { request, toast } from "./api.js";

const form = document.querySelector("form[data-request]");
const preset = document.getElementById("preset");
const others = document.getElementById("others");
const place = document.getElementById("other-fields");
let presets = new Map();

/** [path, value] of every field of a configuration. */
function flat(config, prefix = "") {
  return Object.entries(config).flatMap(([name, value]) =>
    value && typeof value === "object" && !Array.isArray(value) ? flat(value, `${prefix}${name}.`) : [[prefix + name, value]]);
}

const shown = (value) => (value === null ? "none" : Array.isArray(value) ? value.join(", ") : String(value));

function show() {
  const chosen = presets.get(preset.value);
  if (!chosen) return;
  document.getElementById("summary").textContent =
    `${chosen.summary} ${(chosen.num_parameters / 1e6).toPrecision(3)} million parameters, ${chosen.gflops.toPrecision(3)} Gflops per evaluation.`;
  const fields = new Map(flat(chosen.config));
  for (const input of form.elements) {
    if (input.name?.startsWith("config.") && input.type !== "hidden") input.placeholder = shown(fields.get(input.name.slice(7)) ?? null);
  }
  const rows = [...fields].filter(([name]) => name !== "preset").map(([name, value]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = shown(value);
    return row;
  });
  document.getElementById("fields").replaceChildren(...rows);
}

/** Hidden fields of the form for the lines of the text. */
function readLines() {
  const inputs = [];
  others.setCustomValidity("");
  for (const line of others.value.split("\n").filter((one) => one.trim())) {
    const found = /^\s*([\w.]+)\s*[=:]\s*(.+?)\s*$/.exec(line);
    if (!found) {
      others.setCustomValidity(`"${line.trim()}" must be a field and its value, such as network.dropout = 0.1`);
      continue;
    }
    const input = document.createElement("input");
    input.type = "hidden";
    input.name = `config.${found[1]}`;
    input.value = found[2];
    input.dataset.type = isJson(found[2]) ? "json" : "text";
    inputs.push(input);
  }
  place.replaceChildren(...inputs);
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

others.addEventListener("input", readLines);
preset.addEventListener("change", show);
readLines();
try {
  presets = new Map((await request("GET", "v1/presets")).items.map((one) => [one.name, one]));
  show();
} catch (error) {
  toast(error.message);
}
