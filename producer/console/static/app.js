// Signs in, routes between pages, and shows the server's health.

import { Api } from "./api.js";
import { card, field, h, notice, show, showError } from "./dom.js";
import * as batches from "./pages/batches.js";
import * as dead from "./pages/dead.js";
import * as job from "./pages/job.js";
import * as jobs from "./pages/jobs.js";
import * as models from "./pages/models.js";
import * as overview from "./pages/overview.js";
import * as playground from "./pages/playground.js";
import * as workers from "./pages/workers.js";

const PAGES = [
  { path: "overview", title: "Overview", page: overview },
  { path: "jobs", title: "Jobs", page: jobs },
  { path: "batches", title: "Batches", page: batches },
  { path: "workers", title: "Workers", page: workers, operator: true },
  { path: "models", title: "Models", page: models },
  { path: "dead", title: "Dead letters", page: dead, operator: true },
  { path: "playground", title: "Playground", page: playground },
];
const HEALTH_EVERY = 10;

const api = new Api(document.documentElement.dataset.api);
const main = document.getElementById("main");
const signOut = document.getElementById("sign-out");
let session = null;
let leaving = new AbortController();

/** Finds out what the key may see. Throws ApiError when the server wants another key. */
async function openSession() {
  try {
    await api.json("/v1/workers");
    return { operator: true };
  } catch (error) {
    if (error.status !== 403) throw error;
    return { operator: false };
  }
}

function signIn(reason) {
  leaving.abort();
  session = null;
  signOut.hidden = true;
  show(document.getElementById("nav"));
  const problem = notice();
  const key = h("input", { type: "password", name: "key", autocomplete: "off", required: true, spellcheck: "false" });
  const form = h(
    "form",
    { class: "sign-in", onsubmit: async (event) => {
      event.preventDefault();
      api.key = key.value.trim();
      await start(form, problem);
      key.value = "";
    } },
    field("API key", key, { name: "key", hint: "The key stays in this tab and is forgotten when you close it." }),
    h("button", { type: "submit" }, "Open the console"),
    problem,
  );
  problem.textContent = reason ?? "";
  show(main, h("h1", {}, "Sign in"), card("", h("p", {}, "This server asks for an API key. An operator's key shows the whole fleet, a tenant's key its own work. Create one with ", h("code", {}, "ignite keys create --name NAME"), "."), form));
  key.focus();
}

async function start(form, problem) {
  try {
    session = await openSession();
  } catch (error) {
    if (error.status === 401) {
      const offered = Boolean(api.key);
      api.key = "";
      if (form) showError(form, problem, { message: error.message, param: "key" });
      else signIn(offered ? error.message : "");
      return;
    }
    if (form) showError(form, problem, error);
    else show(main, h("h1", {}, "The server does not answer"), card("", h("p", {}, error.message), h("button", { type: "button", onclick: () => start() }, "Try again")));
    return;
  }
  signOut.hidden = !api.key;
  route();
}

/** Decodes a part of the address; an address that was typed wrongly is taken as it is. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function route() {
  if (!session) return;
  const [path, search = ""] = (location.hash.replace(/^#\/?/, "") || "overview").split("?");
  const [name, ...rest] = path.split("/").map(decoded);
  const known = PAGES.find((each) => each.path === name) ?? PAGES[0];
  const page = name === "jobs" && rest.length ? job : known.page;
  leaving.abort();
  leaving = new AbortController();
  drawNavigation(known);
  document.title = `${known.title} · Ignite`;
  const element = h("div", { class: `page page-${known.path}` });
  show(main, element);
  window.scrollTo(0, 0);
  const context = { api, session, element, signal: leaving.signal, rest, query: new URLSearchParams(search), poll, fail: failed(element) };
  page.render(context);
}

function drawNavigation(current) {
  const links = PAGES.filter((each) => session.operator || !each.operator).map(({ path, title }) =>
    h("a", { href: `#/${path}`, "aria-current": path === current.path ? "page" : undefined }, title),
  );
  show(document.getElementById("nav"), links);
}

/** Returns what shows a page's error: the sign-in form where the key is refused. */
const failed = (element) => (error) => {
  if (leaving.signal.aborted && error.name === "AbortError") return;
  if (error.status === 401) {
    api.key = "";
    signIn(error.message);
    return;
  }
  let place = element.querySelector(":scope > .notice.page-error");
  if (!place) element.prepend((place = h("p", { class: "notice error page-error", role: "alert" })));
  place.textContent = error.message ?? String(error);
};

/** Runs `work` now and every `seconds`, while the page is open and visible. Clears the page's error when it succeeds. */
function poll({ element, signal, fail }, seconds, work) {
  let timer;
  let running = false;
  const run = async () => {
    clearTimeout(timer);
    if (signal.aborted || running) return;
    if (!document.hidden) {
      running = true;
      try {
        await work();
        element.querySelector(":scope > .page-error")?.remove();
      } catch (error) {
        if (!signal.aborted) fail(error);
      }
      running = false;
    }
    if (!signal.aborted && !document.hidden) timer = setTimeout(run, seconds * 1000);
  };
  document.addEventListener("visibilitychange", () => document.hidden || run(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  run();
  return run;
}

async function watchHealth() {
  const place = document.getElementById("health");
  try {
    const response = await fetch(`${api.base}/readyz`);
    const answer = await response.json().catch(() => ({}));
    const faults = Object.entries(answer).filter(([, value]) => typeof value === "string" && value !== "ok");
    place.className = `health ${response.ok ? "good" : "bad"}`;
    place.textContent = response.ok ? "ready" : "not ready";
    place.title = faults.map(([name, value]) => `${name}: ${value}`).join("\n");
  } catch {
    place.className = "health bad";
    place.textContent = "no answer";
  }
  setTimeout(watchHealth, HEALTH_EVERY * 1000);
}

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("ignite-theme", document.documentElement.dataset.theme);
});
const theme = localStorage.getItem("ignite-theme");
if (theme) document.documentElement.dataset.theme = theme;
signOut.addEventListener("click", () => {
  api.key = "";
  start();
});
window.addEventListener("hashchange", route);
watchHealth();
start();
