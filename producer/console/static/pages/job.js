// One job: its timeline, its answer, and what can be done with it.

import { card, copyButton, h, pairs, show } from "../dom.js";
import { count, duration, moment, pretty } from "../format.js";
import { addChunk, emptyAnswer } from "../sse.js";

const EVERY = 2;

export function render(context) {
  const { api, element, signal, rest } = context;
  const id = rest[0];
  const path = `/v1/jobs/${encodeURIComponent(id)}`;
  const head = h("div");
  const times = h("div");
  const body = h("div", { class: "answer" });
  const answer = card("Answer", h("p", { class: "actions" }, h("button", { type: "button", "data-key": "answer", onclick: (event) => follow(context, path, body, event.target) }, "Show the stream")), body);
  element.append(h("p", {}, h("a", { href: "#/jobs" }, "← Jobs")), h("h1", {}, h("code", {}, id)), head, times, answer);
  let over = false;
  const refresh = context.poll(context, EVERY, async () => {
    if (over) return;
    const job = await api.json(path, { signal });
    over = job.finished_at !== null;
    show(head, summary(job), actions(context, job, path, () => { over = false; refresh(); }));
    show(times, card("Timeline", timeline(job)), job.error && card("Error", h("p", { class: "notice error" }, job.error.message), pairs([["Code", job.error.code], ["Type", job.error.type], ["Field", job.error.param]])));
  });
}

function summary(job) {
  const queue = job.queue;
  return card(
    "",
    pairs([
      ["Status", h("span", { class: `status ${job.status}` }, job.status)],
      ["Model", job.model],
      ["Tier", job.service_tier],
      ["Position", queue && (queue.position === null ? "not known" : `${count(queue.position)}, ${queue.workers ? `starts in about ${duration(queue.eta_seconds)}` : "no worker serves this model"}`)],
      ["Tries", count(job.attempts)],
      ["Tokens", job.usage ? `${count(job.usage.prompt_tokens)} in, ${count(job.usage.completion_tokens)} out` : count(job.progress.completion_tokens)],
      ["Metadata", Object.keys(job.metadata).length ? h("code", {}, JSON.stringify(job.metadata)) : ""],
      ["Kept until", job.expires_at && moment(job.expires_at)],
    ]),
  );
}

function actions({ api, fail, signal }, job, path, changed) {
  const act = (what) => async (event) => {
    event.target.disabled = true;
    try {
      await api.json(`${path}/${what}`, { method: "POST", signal });
      changed();
    } catch (error) {
      fail(error);
    }
    event.target.disabled = false;
  };
  return h(
    "p",
    { class: "actions" },
    job.finished_at === null && h("button", { type: "button", class: "danger", "data-key": "cancel", onclick: act("cancel") }, "Cancel"),
    job.status === "failed" && h("button", { type: "button", "data-key": "retry", onclick: act("retry") }, "Retry"),
    copyButton(() => pretty(job)),
  );
}

/** Returns the job's events in order, each with the time since the one before. */
function timeline(job) {
  const events = [
    ["Created and queued", job.created_at],
    [job.attempts > 1 ? `Started (attempt ${job.attempts})` : "Started", job.started_at],
    ["First token", job.first_token_at],
    [`Ended: ${job.status}`, job.finished_at],
    ["Deadline", job.finished_at === null ? job.deadline_at : null],
  ].filter(([, at]) => at !== null);
  return h("ol", { class: "timeline" }, events.map(([what, at], index) => h("li", {}, h("span", { class: "when" }, moment(at)), h("span", {}, what), index > 0 && h("span", { class: "hint" }, `+ ${duration(Math.max(0, at - events[index - 1][1]))}`))));
}

async function follow({ api, fail, signal }, path, body, button) {
  button.disabled = true;
  const answer = emptyAnswer();
  try {
    for await (const event of api.events(`${path}/events`, { signal })) {
      if (event.comment !== undefined) {
        if (!answer.text) show(body, h("p", { class: "hint" }, event.comment));
        continue;
      }
      if (event.data === "[DONE]") break;
      addChunk(answer, JSON.parse(event.data));
      show(body, answerView(answer));
    }
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
  button.disabled = false;
}

export function answerView(answer) {
  return [
    answer.reasoning && h("details", { class: "reasoning" }, h("summary", {}, "Reasoning"), h("pre", {}, answer.reasoning)),
    answer.text && h("pre", { class: "text" }, answer.text),
    ...answer.tools.map((call) => h("div", { class: "tool" }, h("strong", {}, call.name), h("pre", {}, call.arguments))),
    answer.error && h("p", { class: "notice error" }, answer.error.message),
    answer.finish && h("p", { class: "hint" }, `finish_reason: ${answer.finish}`, answer.usage && ` · ${answer.usage.prompt_tokens} tokens in, ${answer.usage.completion_tokens} out`),
  ].filter(Boolean);
}
