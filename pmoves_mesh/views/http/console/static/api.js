// Asking the agent. Nothing here, or anywhere on this page, asks another host.

let token = "";

/** The agent did not do what it was asked; `detail` is its own line. */
export class Problem extends Error {
  constructor(status, detail, body = {}) {
    super(detail);
    this.status = status;
    this.detail = detail;
    this.body = body;
  }
}

/** Remembers what shows other hosts' agents that one may write: until the page is closed, and nowhere else. */
export function useToken(typed) {
  token = typed.trim();
}

/** Returns whether a token was typed in. */
export function hasToken() {
  return token !== "";
}

/** Returns the path of a route with a query; what is empty is left out. */
export function route(path, query = {}) {
  const asked = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) asked.append(key, value);
  }
  const text = asked.toString();
  return text ? `${path}?${text}` : path;
}

/** Returns a part of a path as it is sent. */
export function part(text) {
  return encodeURIComponent(text);
}

/** Asks, and returns {body, headers}. Throws a Problem whatever goes wrong, unless `signal` ended it. */
export async function get(path, query = {}, signal = undefined) {
  return ask(route(path, query), { signal, headers: { Accept: "application/json" } });
}

/** Changes something, as whoever has the token if one was typed in. */
export async function write(method, path, query = {}, body = undefined) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  return ask(route(path, query), { method, headers, body: body && JSON.stringify(body) });
}

async function ask(path, options) {
  let response;
  try {
    // A cache that is told "unchanged" would keep an older answer's headers, and with them that it was stale.
    response = await fetch(path, {
      ...options,
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "This agent does not answer.");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return { body, headers: response.headers };
  throw new Problem(response.status, body?.detail ?? `${response.status} ${response.statusText}`, body ?? {});
}
