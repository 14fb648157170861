// Requests to the API of the same service, with the CSRF token of the session.

const page = document.documentElement.dataset;

/** The relative address of a path of the API, such as "v1/runs". */
export function address(path) {
  return page.root + path.replace(/^\//, "");
}

/** Thrown for every answer with status 400 or more. `errors` lists each wrong field: {field, detail}. */
export class ApiError extends Error {
  constructor(problem) {
    super(problem.detail);
    this.errors = problem.errors ?? [];
    this.status = problem.status;
  }
}

/** The JSON answer of the API; null for an empty one. Throws ApiError, and TypeError without a connection. */
export async function request(method, path, body) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && page.csrf) headers["X-CSRF-Token"] = page.csrf;
  const answer = await fetch(address(path), { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  const content = text ? JSON.parse(text) : null;
  if (!answer.ok) throw new ApiError(content ?? { detail: `${method} ${path} was answered with ${answer.status}`, status: answer.status });
  return content;
}

/** Show a sentence at the corner of the page; `link` is {href, text}. */
export function toast(sentence, link) {
  const place = document.getElementById("toast");
  place.textContent = sentence;
  if (link) {
    const anchor = document.createElement("a");
    anchor.href = link.href;
    anchor.textContent = ` ${link.text}`;
    place.append(anchor);
  }
  place.hidden = false;
  clearTimeout(place.timer);
  place.timer = setTimeout(() => { place.hidden = true; }, 8000);
}
