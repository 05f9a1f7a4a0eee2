// The client of Ignite's public HTTP API.

import { readEvents } from "./sse.js";

const KEY = "ignite-key";

/** The API's error object. `param`: the request field that it is about. */
export class ApiError extends Error {
  constructor(status, error = {}, retryAfter = null) {
    super(error.message ?? `The server answered ${status}.`);
    Object.assign(this, { status, code: error.code ?? null, param: error.param ?? null, retryAfter });
  }
}

export class Api {
  /** `base`: the API's address; empty for the server of this page. */
  constructor(base) {
    this.base = base.replace(/\/$/, "");
  }

  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  /** Keeps the key for this tab only; an empty one is forgotten. */
  set key(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  }

  get origin() {
    return this.base || location.origin;
  }

  /** Sends a request. Returns the Response, or throws ApiError. */
  async send(path, { method = "GET", body, form, headers = {}, signal } = {}) {
    const all = { ...headers };
    if (this.key) all.authorization = `Bearer ${this.key}`;
    if (body !== undefined) all["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(this.base + path, { method, headers: all, signal, body: form ?? (body === undefined ? undefined : JSON.stringify(body)) });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, { message: `${this.origin} does not answer.`, code: "unreachable" });
    }
    if (response.ok) return response;
    const answer = await response.json().catch(() => ({}));
    throw new ApiError(response.status, answer.error, response.headers.get("retry-after"));
  }

  async json(path, options) {
    return (await this.send(path, options)).json();
  }

  async text(path, options) {
    return (await this.send(path, options)).text();
  }

  /** Yields the events of a stream: {comment} or {id, data}. */
  async *events(path, options = {}) {
    const response = await this.send(path, { ...options, headers: { accept: "text/event-stream", ...options.headers } });
    yield* readEvents(response.body);
  }
}

/** Returns a query string of the values that are set. */
export function query(values) {
  const set = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return set.length ? `?${new URLSearchParams(set)}` : "";
}
