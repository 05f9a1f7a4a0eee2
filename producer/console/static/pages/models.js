// The catalog.

import { h, show, table } from "../dom.js";
import { count } from "../format.js";

export function render(context) {
  const { api, element, signal } = context;
  const list = h("div");
  element.append(h("h1", {}, "Models"), list);
  context.poll(context, 10, async () => {
    const { data } = await api.json("/v1/models", { signal });
    show(
      list,
      table({
        caption: "Models",
        rows: data,
        empty: "No model is served. Start a worker: ignite worker --model …",
        columns: [
          ["Model", (model) => h("code", {}, model.id)],
          ["Aliases", (model) => model.aliases.join(", ") || "–"],
          ["Parent", (model) => model.parent ?? "–"],
          ["Engine", (model) => model.engine],
          ["Context", (model) => count(model.context_length), "number"],
          ["Can", (model) => model.capabilities.join(", ")],
          ["Workers", (model) => (model.workers ? count(model.workers) : h("span", { class: "late" }, "none")), "number"],
          ["Open", (model) => [h("a", { href: `#/playground?model=${encodeURIComponent(model.id)}` }, "Try"), " ", h("a", { href: `#/jobs?model=${encodeURIComponent(model.id)}` }, "Jobs")], "actions"],
        ],
      }),
    );
  });
}
