// Forms that send JSON: <form data-request="POST v1/runs/digits/cancel" data-confirm="Cancel?" data-then="reload">.
//
// Names of fields are paths in the body ("config.seed"). data-type says how a value is read: number, list (numbers
// separated by commas or spaces), json, or text. Empty fields are left out. data-then: reload, or an address in which
// {id} and other fields of the answer are filled in ("runs/{name}").
import { address, ApiError, request, toast } from "./api.js";

/** Send the forms of `root` as they are submitted. */
export function listenToForms(root) {
  root.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-request]");
    if (!form) return;
    event.preventDefault();
    send(form, event.submitter);
  });
}

async function send(form, button) {
  if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
  const [method, path] = form.dataset.request.split(" ");
  clearErrors(form);
  if (button) button.disabled = true;
  try {
    const answer = await request(method, path, method === "GET" ? undefined : body(form));
    form.dispatchEvent(new CustomEvent("answered", { bubbles: true, detail: answer }));
    follow(form.dataset.then, answer);
  } catch (error) {
    showError(form, error);
  } finally {
    if (button) button.disabled = false;
  }
}

/** The values of a form as nested JSON. */
export function body(form) {
  const result = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled || (["checkbox", "radio"].includes(field.type) && !field.checked)) continue;
    const value = read(field);
    if (value === undefined) continue;
    const names = field.name.split(".");
    const last = names.pop();
    names.reduce((place, name) => (place[name] ??= {}), result)[last] = value;
  }
  return result;
}

function read(field) {
  if (field.type === "checkbox") return field.value === "on" ? true : field.value;
  const text = field.value.trim();
  if (text === "") return undefined;
  switch (field.dataset.type ?? (["number", "range"].includes(field.type) ? "number" : "text")) {
    case "number": return Number(text);
    case "list": return text.split(/[\s,]+/).filter(Boolean).map(Number);
    case "json": return JSON.parse(text);
    default: return text;
  }
}

function follow(then, answer) {
  if (then === "reload") window.location.reload();
  else if (then) window.location.href = address(then.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(answer[name])));
}

function clearErrors(form) {
  for (const place of form.querySelectorAll(".wrong[role=alert]")) place.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

/** Show an error beside the fields that it names, else at the end of the form. */
export function showError(form, error) {
  const sentences = error instanceof ApiError && error.errors.length ? error.errors : [{ field: "", detail: error.message }];
  for (const { field, detail } of sentences) {
    const input = field && form.elements[field];
    const place = document.createElement("p");
    place.className = "wrong";
    place.setAttribute("role", "alert");
    place.textContent = detail;
    if (input instanceof HTMLElement) {
      input.setAttribute("aria-invalid", "true");
      input.after(place);
      input.focus();
    } else if (form.hidden || !form.offsetParent) toast(detail);
    else form.append(place);
  }
}
