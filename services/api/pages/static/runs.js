// The list of runs: filters without empty fields in the address, and a choice of runs that survives live changes.

const chosen = new Set();
const compare = document.querySelector("[data-compare]");

function boxes() {
  return document.querySelectorAll("input[name=run][form=compare]");
}

function show() {
  if (compare) compare.disabled = chosen.size < 1;
  for (const box of boxes()) box.checked = chosen.has(box.value);
}

document.addEventListener("change", (event) => {
  const box = event.target;
  if (!box.matches?.("input[name=run][form=compare]")) return;
  if (box.checked) chosen.add(box.value);
  else chosen.delete(box.value);
  show();
});

// The browser may have restored checks of an earlier visit.
window.addEventListener("pageshow", () => {
  for (const box of boxes()) if (box.checked) chosen.add(box.value);
  for (const field of document.querySelectorAll("[data-filters] :disabled")) field.disabled = false;
  show();
});
document.addEventListener("phema:replaced", show);

const filters = document.querySelector("[data-filters]");
filters?.addEventListener("submit", () => {
  for (const field of filters.elements) if (field.name && field.value.trim() === "") field.disabled = true;
});
filters?.addEventListener("change", (event) => {
  if (event.target.matches("select")) filters.requestSubmit();
});
