// What waits, what runs, and what is wrong.

import { bar, sparkline } from "../charts.js";
import { card, h, show, table } from "../dom.js";
import { count, duration, percent } from "../format.js";
import { parseMetrics, quantileOf, total } from "../prometheus.js";

const EVERY = 2;
const SAMPLES = 150;
const TIERS = ["priority", "default", "flex"];

/** The samples of this tab since it was opened: it keeps them between pages. */
const history = { waiting: [], running: [], ended: [] };
let first = null;
let last = null;

export function render(context) {
  if (context.session.operator) renderFleet(context);
  else renderTenant(context);
}

function renderFleet(context) {
  const { api, element, signal } = context;
  const faults = h("div", { role: "status" });
  const figures = h("div", { class: "figures" });
  const queues = h("div");
  const workers = h("div");
  element.append(h("h1", {}, "Overview"), faults, figures, card("Queues", queues), card("Workers", workers));
  context.poll(context, EVERY, async () => {
    const [queued, working, metrics] = await Promise.all([
      api.json("/v1/queues", { signal }),
      api.json("/v1/workers", { signal }),
      api.text("/metrics", { signal }).then(parseMetrics),
    ]);
    observe(queued.data, metrics);
    show(faults, faultList(queued.data, working.data));
    show(figures, figureCards(queued.data, working.data, metrics));
    show(queues, queueTable(queued.data));
    show(workers, workerTable(working.data));
  });
}

function observe(queues, metrics) {
  first ??= metrics;
  const ended = total(metrics, "ignite_calls_ended_total");
  push(history.waiting, sum(queues, "waiting"));
  push(history.running, sum(queues, "running"));
  push(history.ended, last === null ? 0 : Math.max(0, (ended - last) / EVERY));
  last = ended;
}

function push(values, value) {
  values.push(value);
  if (values.length > SAMPLES) values.shift();
}

const sum = (rows, name) => rows.reduce((all, row) => all + (row[name] ?? 0), 0);

/** Returns sentences about what needs a person, or one that says that nothing does. */
export function faultList(queues, workers) {
  const faults = [];
  for (const model of new Set(queues.map((queue) => queue.model))) {
    const waiting = sum(queues.filter((queue) => queue.model === model), "waiting");
    const serving = workers.filter((worker) => worker.model === model);
    if (waiting && !serving.length) faults.push(`${count(waiting)} jobs wait for ${model}, and no worker serves it. Start one: ignite worker --model ${model}`);
    else if (waiting && !serving.some((worker) => worker.ready)) faults.push(`${count(waiting)} jobs wait for ${model}, and none of its workers is ready: see their logs.`);
  }
  for (const worker of workers.filter((each) => !each.ready)) faults.push(`Worker ${worker.id} (${worker.model}) is not ready: its engine does not answer, or it is draining.`);
  for (const queue of queues.filter((each) => each.oldest_wait_seconds > 60)) faults.push(`The oldest ${queue.tier} job of ${queue.model} has waited ${duration(queue.oldest_wait_seconds)}.`);
  if (!faults.length) return [h("p", { class: "notice good" }, "Nothing needs attention.")];
  return [h("ul", { class: "notice warning" }, faults.map((fault) => h("li", {}, fault)))];
}

function figureCards(queues, workers, metrics) {
  const slots = sum(workers, "slots");
  const running = sum(queues, "running");
  const p50 = quantileOf(null, metrics, "ignite_first_byte_seconds", 0.5);
  const p99 = quantileOf(null, metrics, "ignite_first_byte_seconds", 0.99);
  const failed = total(metrics, "ignite_calls_ended_total", ({ ending }) => !["completed", "left", "cancelled"].includes(ending));
  return [
    figure("Waiting", count(sum(queues, "waiting")), sparkline(history.waiting, { label: "Waiting jobs" })),
    figure("Running", `${count(running)} of ${count(slots)} slots`, sparkline(history.running, { label: "Running jobs" })),
    figure("Calls ended per second", (history.ended.at(-1) ?? 0).toFixed(1), sparkline(history.ended, { label: "Calls ended per second" })),
    figure("First byte, this replica", p50 === null ? "–" : `p50 ≤ ${duration(p50)}`, h("p", { class: "hint" }, p99 === null ? "no call yet" : `p99 ≤ ${duration(p99)}`)),
    figure("Calls that ended badly, this replica", count(failed), h("p", { class: "hint" }, `of ${count(total(metrics, "ignite_calls_ended_total"))}`)),
  ];
}

function figure(title, value, below) {
  return h("div", { class: "figure" }, h("h2", {}, title), h("p", { class: "value" }, value), below);
}

function queueTable(queues) {
  const busy = queues.filter((queue) => queue.waiting || queue.running);
  const idle = new Set(queues.map((queue) => queue.model)).size;
  return table({
    caption: "Queues",
    rows: busy.sort((left, right) => left.model.localeCompare(right.model) || TIERS.indexOf(left.tier) - TIERS.indexOf(right.tier)),
    empty: idle ? `All queues of ${idle} model${idle === 1 ? "" : "s"} are empty.` : "No model is served yet. Start a worker: ignite worker --model …",
    columns: [
      ["Model", (queue) => h("a", { href: `#/jobs?model=${encodeURIComponent(queue.model)}` }, queue.model)],
      ["Tier", (queue) => queue.tier],
      ["Waiting", (queue) => count(queue.waiting), "number"],
      ["Running", (queue) => count(queue.running), "number"],
      ["Oldest wait", (queue) => duration(queue.oldest_wait_seconds), "number"],
      ["Started per second", (queue) => (queue.started_per_second === null ? "–" : queue.started_per_second.toFixed(1)), "number"],
      ["Empty in", (queue) => (queue.backlog_seconds === null ? "not known" : duration(queue.backlog_seconds)), "number"],
    ],
  });
}

export function workerTable(workers) {
  return table({
    caption: "Workers",
    rows: workers,
    empty: "No worker is connected. Start one: ignite worker --model …",
    columns: [
      ["Model", (worker) => worker.model],
      ["Worker", (worker) => h("code", {}, worker.id)],
      ["Engine", (worker) => worker.engine],
      ["State", (worker) => h("span", { class: `status ${worker.ready ? "completed" : "failed"}` }, worker.ready ? "ready" : "not ready")],
      ["Slots", (worker) => [bar([[worker.running, "used", "running"]], Math.max(1, worker.slots)), ` ${worker.running} / ${worker.slots} `, h("span", { class: "hint" }, percent(worker.running, worker.slots))]],
    ],
  });
}

function renderTenant(context) {
  const { api, element, signal } = context;
  const states = h("div", { class: "figures" });
  element.append(h("h1", {}, "Overview"), states, h("p", {}, h("a", { href: "#/jobs" }, "All jobs"), " · ", h("a", { href: "#/batches" }, "Batches"), " · ", h("a", { href: "#/playground" }, "Playground")));
  context.poll(context, EVERY * 2, async () => {
    const wanted = ["queued", "in_progress", "completed", "failed"];
    const pages = await Promise.all(wanted.map((status) => api.json(`/v1/jobs?limit=100&status=${status}`, { signal })));
    show(states, pages.map((page, index) => figure(wanted[index].replace("_", " "), page.has_more ? "100 or more" : count(page.data.length), h("a", { href: `#/jobs?status=${wanted[index]}` }, "Show them"))));
  });
}
