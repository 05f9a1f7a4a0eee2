// Lists jobs, newest first, by filters that the API has.

import { query } from "../api.js";
import { field, h, show, table } from "../dom.js";
import { ago, count, duration } from "../format.js";

const STATUSES = ["queued", "in_progress", "completed", "failed", "cancelled", "expired"];
const EVERY = 5;

export function render(context) {
  const { api, element, signal } = context;
  const filter = filters(context);
  const list = h("div", { "aria-live": "polite" });
  const pager = h("p", { class: "actions" });
  element.append(h("h1", {}, "Jobs"), filter, list, pager);
  const where = Object.fromEntries(context.query);
  const wanted = { status: where.status, model: where.model, code: where.code, after: where.after, limit: 50 };
  if (where.metadata?.includes("=")) {
    const at = where.metadata.indexOf("=");
    wanted[`metadata[${where.metadata.slice(0, at)}]`] = where.metadata.slice(at + 1);
  }
  context.poll(context, EVERY, async () => {
    const page = await api.json(`/v1/jobs${query(wanted)}`, { signal });
    show(list, jobTable(page.data, where));
    show(
      pager,
      where.after && h("a", { class: "button quiet", href: `#/jobs${query({ ...where, after: "" })}` }, "Newest"),
      page.has_more && h("a", { class: "button quiet", href: `#/jobs${query({ ...where, after: page.last_id })}` }, "Older"),
      page.data.some((job) => job.finished_at === null) && h("button", { type: "button", class: "danger", "data-key": "cancel-all", onclick: () => forAll(context, page.data.filter((job) => job.finished_at === null), "cancel") }, "Cancel those on this page"),
      page.data.some((job) => job.status === "failed") && h("button", { type: "button", "data-key": "retry-all", onclick: () => forAll(context, page.data.filter((job) => job.status === "failed"), "retry") }, "Retry the failed ones on this page"),
    );
  });
}

/** Cancels or retries jobs after a question that says how many they are. */
async function forAll({ api, fail, signal }, jobs, what) {
  if (!confirm(`${what === "cancel" ? "Cancel" : "Retry"} ${jobs.length} job${jobs.length === 1 ? "" : "s"}?`)) return;
  const results = await Promise.allSettled(jobs.map((job) => api.json(`/v1/jobs/${encodeURIComponent(job.id)}/${what}`, { method: "POST", signal })));
  const refused = results.filter((result) => result.status === "rejected");
  if (refused.length) fail(new Error(`${refused.length} of ${jobs.length} refused: ${refused[0].reason.message}`));
}

function filters({ query: current }) {
  const id = h("input", { name: "id", value: "", placeholder: "chatcmpl-…", spellcheck: "false" });
  const status = h("select", { name: "status" }, h("option", { value: "" }, "any"), STATUSES.map((each) => h("option", { value: each, selected: current.get("status") === each }, each)));
  const text = (name, placeholder) => h("input", { name, value: current.get(name) ?? "", placeholder, spellcheck: "false" });
  return h(
    "form",
    { class: "filters", role: "search", onsubmit: (event) => {
      event.preventDefault();
      const values = Object.fromEntries(new FormData(event.target));
      const wanted = values.id.trim();
      delete values.id;
      location.hash = wanted ? `#/jobs/${encodeURIComponent(wanted)}` : `#/jobs${query(values)}`;
    } },
    field("Id", id, { name: "id" }),
    field("Status", status, { name: "status" }),
    field("Model", text("model", "any"), { name: "model" }),
    field("Error code", text("code", "any"), { name: "code" }),
    field("Metadata", text("metadata", "key=value"), { name: "metadata" }),
    h("button", { type: "submit" }, "Find"),
  );
}

function jobTable(jobs, where) {
  const filtered = Object.values(where).some(Boolean);
  return table({
    caption: "Jobs",
    rows: jobs,
    empty: filtered ? "No job matches. Ended jobs are kept for an hour by default (job_retention)." : "No jobs yet. Send a request, or try the playground.",
    columns: [
      ["Job", (job) => h("a", { href: `#/jobs/${encodeURIComponent(job.id)}` }, h("code", {}, job.id.replace("chatcmpl-", "…").slice(0, 14)))],
      ["Status", (job) => h("span", { class: `status ${job.status}` }, job.status)],
      ["Model", (job) => job.model],
      ["Tier", (job) => job.service_tier],
      ["Created", (job) => ago(job.created_at)],
      ["In queue", (job) => duration((job.started_at ?? job.finished_at ?? Date.now() / 1000) - job.created_at), "number"],
      ["Run", (job) => (job.started_at ? duration((job.finished_at ?? Date.now() / 1000) - job.started_at) : "–"), "number"],
      ["Tokens", (job) => count(job.progress.completion_tokens), "number"],
      ["Tries", (job) => count(job.attempts), "number"],
      ["Error", (job) => job.error?.code ?? ""],
    ],
  });
}
