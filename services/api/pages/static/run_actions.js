// What the forms of a run's page do beyond `forms.js`.
//
// Forms that first show what they would do: <form data-two-steps="plan_only">. Their field of that name is true at first.
// The plan appears in the .plan after the form, with a button that sends the form again to act.
import { toast } from "./api.js";
import { bytes, count, error } from "./formats.js";

const WORDS = {
  vectors: "vectors", bytes_to_read: "to read", bytes_to_store: "to store", error_added: "error added", num_images: "at images",
};

function words(name, value) {
  if (name.startsWith("bytes_")) return bytes(value);
  return name === "error_added" ? error(value) : count(value);
}

document.addEventListener("answered", (event) => {
  const form = event.target.closest("form[data-two-steps]");
  if (!form) return;
  const step = form.elements[form.dataset.twoSteps];
  const place = form.parentElement.querySelector(".plan");
  if (step.value !== "true") {
    step.value = "true";
    place.replaceChildren();
    toast(event.detail.job ? "The job is queued." : "Nothing was left to do.");
    return;
  }
  const plan = event.detail;
  const list = document.createElement("dl");
  list.className = "facts";
  for (const [name, title] of Object.entries(WORDS)) {
    if (plan[name] === undefined || plan[name] === null) continue;
    const pair = document.createElement("div");
    pair.append(Object.assign(document.createElement("dt"), { textContent: title }), Object.assign(document.createElement("dd"), { textContent: words(name, plan[name]) }));
    list.append(pair);
  }
  const act = document.createElement("button");
  act.type = "button";
  act.className = "primary";
  act.textContent = "Do it";
  act.addEventListener("click", () => {
    step.value = "false";
    form.requestSubmit();
  });
  place.replaceChildren(list, plan.basis_id ? Object.assign(document.createElement("p"), { textContent: "A finished basis covers this already." }) : act);
});

// A refused second step must not leave the form ready to act without a plan.
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-two-steps]");
  if (form && event.submitter) form.elements[form.dataset.twoSteps].value = "true";
}, true);

// Details that were open before a form reloaded the page are open again.
const KEY = `open details of ${window.location.pathname}`;
document.addEventListener("answered", () => {
  const open = [...document.querySelectorAll("main details[open][id]")].map((one) => one.id);
  sessionStorage.setItem(KEY, JSON.stringify(open));
});
for (const id of JSON.parse(sessionStorage.getItem(KEY) ?? "[]")) {
  const details = document.getElementById(id);
  if (details) details.open = true;
}
sessionStorage.removeItem(KEY);
