// Dead jobs of every tenant, and messages that no worker could decode.

import { card, h, show, table } from "../dom.js";
import { ago, bytes, count } from "../format.js";

export function render(context) {
  const { api, element, signal } = context;
  const jobs = h("div");
  const messages = h("div");
  element.append(h("h1", {}, "Dead letters"), card("Jobs that failed for good", jobs), card("Messages that could not be decoded", messages));
  const refresh = context.poll(context, 5, async () => {
    const [dead, undecodable] = await Promise.all([api.json("/v1/dead?limit=50", { signal }), api.json("/v1/dead/messages", { signal })]);
    show(jobs, jobTable(context, dead.data, () => refresh()));
    show(messages, messageTable(context, undecodable.data, () => refresh()));
  });
}

const act = ({ api, fail, signal }, path, method, changed) => async () => {
  try {
    await api.send(path, { method, signal });
    changed();
  } catch (error) {
    fail(error);
  }
};

function jobTable(context, rows, changed) {
  return table({
    caption: "Jobs that failed for good",
    rows,
    empty: "There are none: every job ended by itself.",
    columns: [
      ["Job", (job) => h("code", {}, job.id)],
      ["Tenant", (job) => job.tenant],
      ["Model", (job) => job.model],
      ["Ended", (job) => ago(job.finished_at)],
      ["Tries", (job) => count(job.attempts), "number"],
      ["Reason", (job) => job.error?.message ?? ""],
      ["Actions", (job) => h("button", { type: "button", "data-key": job.id, onclick: act(context, `/v1/dead/${encodeURIComponent(job.id)}/retry`, "POST", changed) }, "Replay"), "actions"],
    ],
  });
}

function messageTable(context, rows, changed) {
  return table({
    caption: "Messages that could not be decoded",
    rows,
    empty: "There are none.",
    columns: [
      ["Message", (message) => h("code", {}, message.id)],
      ["Queue", (message) => message.queue],
      ["Set aside", (message) => ago(message.set_aside_at)],
      ["Size", (message) => bytes(message.bytes), "number"],
      ["Reason", (message) => message.reason],
      ["Actions", (message) => [
        h("button", { type: "button", "data-key": `replay-${message.id}`, onclick: act(context, `/v1/dead/messages/${encodeURIComponent(message.id)}/replay`, "POST", changed) }, "Replay"),
        h("button", { type: "button", class: "danger", "data-key": `delete-${message.id}`, onclick: act(context, `/v1/dead/messages/${encodeURIComponent(message.id)}`, "DELETE", changed) }, "Delete"),
      ], "actions"],
    ],
  });
}
