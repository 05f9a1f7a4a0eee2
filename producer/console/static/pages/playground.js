// Chat with a model, and see the request that did it.

import { card, copyButton, field, h, notice, show, showError } from "../dom.js";
import { pretty } from "../format.js";
import { addChunk, emptyAnswer } from "../sse.js";
import { answerView } from "./job.js";

export function render(context) {
  const { api, element, signal, query } = context;
  const messages = [];
  let calling = null;

  const model = h("select", { name: "model" });
  const system = h("textarea", { name: "system", rows: "2" });
  const number = (name, attributes) => h("input", { type: "number", name, step: "any", ...attributes });
  const temperature = number("temperature", { min: "0", max: "2", placeholder: "model's own" });
  const maxTokens = number("max_completion_tokens", { min: "1", step: "1", placeholder: "model's own" });
  const seed = number("seed", { step: "1", placeholder: "random" });
  const tier = h("select", { name: "service_tier" }, ["default", "priority", "flex"].map((each) => h("option", { value: each }, each)));
  const tools = h("textarea", { name: "tools", rows: "3", spellcheck: "false", placeholder: '[{"type": "function", "function": {"name": "…", "parameters": {…}}}]' });
  const format = h("textarea", { name: "response_format", rows: "3", spellcheck: "false", placeholder: '{"type": "json_schema", "json_schema": {"name": "…", "schema": {…}}}' });
  const prompt = h("textarea", { name: "messages", rows: "3", required: true });
  const log = h("div", { class: "chat", "aria-live": "polite" });
  const state = h("p", { class: "hint", role: "status" });
  const problem = notice();
  const send = h("button", { type: "submit" }, "Send");
  const stop = h("button", { type: "button", class: "danger", hidden: true, onclick: () => calling?.abort() }, "Stop");
  const clear = h("button", { type: "button", class: "quiet", onclick: () => { messages.length = 0; show(log); } }, "Clear");
  const code = h("div");

  const form = h(
    "form",
    { class: "playground", onsubmit: (event) => { event.preventDefault(); call(); } },
    h("div", {}, card("", log, state, field("Your message", prompt, { name: "messages" }), h("p", { class: "actions" }, send, stop, clear), problem)),
    card(
      "Parameters",
      field("Model", model, { name: "model" }),
      field("System prompt", system, { name: "system" }),
      field("Temperature", temperature, { name: "temperature" }),
      field("Longest answer, in tokens", maxTokens, { name: "max_completion_tokens max_tokens" }),
      field("Seed", seed, { name: "seed" }),
      field("Tier", tier, { name: "service_tier" }),
      field("Tools (JSON)", tools, { name: "tools tool_choice" }),
      field("Response format (JSON)", format, { name: "response_format" }),
    ),
  );
  element.append(h("h1", {}, "Playground"), form, code);
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); form.requestSubmit(); }
  });
  signal.addEventListener("abort", () => calling?.abort());
  fillModels();

  async function fillModels() {
    try {
      const { data } = await api.json("/v1/models", { signal });
      show(model, data.map((each) => h("option", { value: each.id, selected: each.id === query.get("model") }, each.workers ? each.id : `${each.id} (no worker)`)));
      if (!data.length) problem.textContent = "No model is served. Start a worker: ignite worker --model …";
    } catch (error) {
      if (!signal.aborted) context.fail(error);
    }
  }

  /** Returns the request's body. Throws an error with `param` where a field is not valid JSON. */
  function request() {
    const body = { model: model.value, messages: [...(system.value ? [{ role: "system", content: system.value }] : []), ...messages, { role: "user", content: prompt.value }], stream: true, stream_options: { include_usage: true } };
    if (temperature.value !== "") body.temperature = Number(temperature.value);
    if (maxTokens.value !== "") body.max_completion_tokens = Number(maxTokens.value);
    if (seed.value !== "") body.seed = Number(seed.value);
    if (tier.value !== "default") body.service_tier = tier.value;
    for (const control of [tools, format]) {
      if (!control.value.trim()) continue;
      try {
        body[control.name] = JSON.parse(control.value);
      } catch (error) {
        throw Object.assign(new Error(`This is not valid JSON: ${error.message}`), { param: control.name });
      }
    }
    return body;
  }

  async function call() {
    if (calling) return;
    showError(form, problem, null);
    let body;
    try {
      body = request();
    } catch (error) {
      showError(form, problem, error);
      return;
    }
    show(code, codeCards(api, body));
    calling = new AbortController();
    const said = { role: "user", content: prompt.value };
    const answer = emptyAnswer();
    const place = h("div", { class: "turn assistant" });
    const question = h("div", { class: "turn user" }, h("pre", { class: "text" }, said.content));
    log.append(question, place);
    send.disabled = true;
    stop.hidden = false;
    state.textContent = "sent";
    const since = performance.now();
    try {
      for await (const event of api.events("/v1/chat/completions", { method: "POST", body, signal: calling.signal })) {
        if (event.comment !== undefined) {
          state.textContent = event.comment;
          continue;
        }
        if (event.data === "[DONE]") break;
        if (!answer.text) state.textContent = `first token after ${Math.round(performance.now() - since)} ms`;
        addChunk(answer, JSON.parse(event.data));
        show(place, answerView(answer));
      }
      if (!answer.text && !answer.tools.length) return;
      messages.push(said, { role: "assistant", content: answer.text || null, ...(answer.tools.length ? { tool_calls: answer.tools.map((each) => ({ id: each.id, type: "function", function: { name: each.name, arguments: each.arguments } })) } : {}) });
      if (answer.tools.length) messages.push(...answer.tools.map((each) => ({ role: "tool", tool_call_id: each.id, content: "{}" })));
      prompt.value = "";
    } catch (error) {
      if (calling.signal.aborted) {
        state.textContent = "stopped";
      } else {
        question.remove();
        place.remove();
        state.textContent = "";
        showError(form, problem, error);
      }
    } finally {
      calling = null;
      send.disabled = false;
      stop.hidden = true;
      if (!signal.aborted) prompt.focus();
    }
  }
}

/** Returns the request as a curl command and as Python. The key is never part of it. */
function codeCards(api, body) {
  const quoted = pretty(body).replaceAll("'", "'\\''");
  const key = api.key ? ` \\\n  -H "Authorization: Bearer $OPENAI_API_KEY"` : "";
  const curl = `curl -N ${api.origin}/v1/chat/completions \\\n  -H "Content-Type: application/json"${key} \\\n  -d '${quoted}'`;
  const fields = Object.entries(body).filter(([name]) => name !== "stream_options").map(([name, value]) => `    ${name}=${python(value)},`).join("\n");
  const source = `from openai import OpenAI\n\nclient = OpenAI(base_url="${api.origin}/v1"${api.key ? "" : ', api_key="none"'})\nfor chunk in client.chat.completions.create(\n${fields}\n):\n    print(chunk.choices[0].delta.content or "", end="", flush=True)`;
  const block = (title, text) => h("details", { class: "card" }, h("summary", {}, title), copyButton(() => text), h("pre", {}, text));
  return [block("As curl", curl), block("As Python", source)];
}

/** Returns a JSON value as a Python literal. */
function python(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
