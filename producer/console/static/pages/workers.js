// The workers that are connected.

import { bar } from "../charts.js";
import { h, show, table } from "../dom.js";
import { ago, count } from "../format.js";

const KNOWN = new Set(["object", "id", "model", "models", "engine", "slots", "running", "ready", "version", "started_at"]);

export function render(context) {
  const { api, element, signal } = context;
  const list = h("div");
  element.append(h("h1", {}, "Workers"), list);
  context.poll(context, 2, async () => {
    const { data } = await api.json("/v1/workers", { signal });
    show(list, workerTable(data));
  });
}

function workerTable(workers) {
  return table({
    caption: "Workers",
    rows: workers,
    empty: "No worker is connected. Start one: ignite worker --model …",
    columns: [
      ["Worker", (worker) => h("code", {}, worker.id)],
      ["Model", (worker) => (worker.models ?? [worker.model]).join(", ")],
      ["Engine", (worker) => worker.engine],
      ["State", (worker) => h("span", { class: `status ${worker.ready ? "completed" : "failed"}` }, worker.ready ? "ready" : "not ready")],
      ["Slots", (worker) => [bar([[worker.running, "used", "running"]], Math.max(1, worker.slots)), ` ${count(worker.running)} / ${count(worker.slots)}`]],
      ["Engine's figures", (worker) => figures(worker)],
      ["Version", (worker) => worker.version],
      ["Started", (worker) => ago(worker.started_at)],
    ],
  });
}

/** Returns what else the worker tells of its engine, whatever that is. */
function figures(worker) {
  const more = Object.entries(worker).filter(([name, value]) => !KNOWN.has(name) && value !== null);
  const flat = more.flatMap(([name, value]) => (typeof value === "object" ? Object.entries(value) : [[name, value]]));
  return flat.map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" && !Number.isInteger(value) ? value.toFixed(2) : value}`).join(" · ") || "–";
}
