// Batches: start one from a file, follow them, cancel, retry and download.

import { bar } from "../charts.js";
import { card, field, h, notice, show, showError, table } from "../dom.js";
import { ago, count, duration, moment, percent } from "../format.js";

const EVERY = 3;

export function render(context) {
  const { api, element, signal } = context;
  const list = h("div", { "aria-live": "polite" });
  element.append(h("h1", {}, "Batches"), card("Start a batch", uploadForm(context, () => refresh())), card("Batches", list));
  const refresh = context.poll(context, EVERY, async () => {
    const page = await api.json("/v1/batches?limit=50", { signal });
    show(list, batchTable(context, page.data, () => refresh()));
  });
}

function uploadForm({ api, signal }, started) {
  const file = h("input", { type: "file", name: "file", accept: ".jsonl", required: true });
  const window_ = h("input", { name: "completion_window", value: "24h", required: true });
  const problem = notice();
  const done = notice("good");
  const button = h("button", { type: "submit" }, "Upload and start");
  const form = h(
    "form",
    { class: "filters", onsubmit: async (event) => {
      event.preventDefault();
      button.disabled = true;
      done.textContent = "";
      showError(form, problem, null);
      try {
        const upload = new FormData();
        upload.append("purpose", "batch");
        upload.append("file", file.files[0]);
        const uploaded = await api.json("/v1/files", { method: "POST", form: upload, signal });
        const endpoint = await endpointOf(file.files[0]);
        const batch = await api.json("/v1/batches", { method: "POST", signal, body: { input_file_id: uploaded.id, endpoint, completion_window: window_.value } });
        done.textContent = `Started ${batch.id}.`;
        form.reset();
        started();
      } catch (error) {
        showError(form, problem, error);
      }
      button.disabled = false;
    } },
    field("Requests (.jsonl)", file, { name: "file input_file_id purpose endpoint", hint: "One request per line, as OpenAI's Batch API takes them." }),
    field("Completion window", window_, { name: "completion_window", hint: "For example 24h or 90m." }),
    button,
    problem,
    done,
  );
  return form;
}

/** Returns the endpoint that the file's first line names. */
async function endpointOf(file) {
  const [line] = (await file.slice(0, 65_536).text()).split("\n");
  try {
    return JSON.parse(line).url ?? "/v1/chat/completions";
  } catch {
    return "/v1/chat/completions";
  }
}

function batchTable(context, batches, changed) {
  return table({
    caption: "Batches",
    rows: batches,
    empty: "No batches yet. Upload a file of requests above, or run: ignite batch run in.jsonl -o out.jsonl",
    columns: [
      ["Batch", (batch) => h("code", {}, batch.id.slice(0, 18))],
      ["Status", (batch) => h("span", { class: `status ${batch.status}` }, batch.status)],
      ["Progress", progress],
      ["Failed", (batch) => count(batch.request_counts.failed), "number"],
      ["Created", (batch) => ago(batch.created_at)],
      ["Window ends", (batch) => windowOf(batch)],
      ["Expected", (batch) => expectedEnd(batch)],
      ["Actions", (batch) => batchActions(context, batch, changed), "actions"],
    ],
  });
}

function progress(batch) {
  const { total, completed, failed } = batch.request_counts;
  if (!total) return batch.errors?.data?.length ? batch.errors.data[0].message : "–";
  return [bar([[completed, "used", "completed"], [failed, "bad", "failed"]], total), ` ${count(completed + failed)} / ${count(total)} `, h("span", { class: "hint" }, percent(completed + failed, total))];
}

const endOf = (batch) => batch.completed_at ?? batch.expired_at ?? batch.cancelled_at ?? batch.failed_at ?? null;

function windowOf(batch) {
  const end = endOf(batch);
  if (end) return `ended ${moment(end)}`;
  return `${moment(batch.expires_at)}, in ${duration(Math.max(0, batch.expires_at - Date.now() / 1000))}`;
}

/** Returns the server's own estimate, else one from the rate so far. */
function expectedEnd(batch) {
  const now = Date.now() / 1000;
  if (endOf(batch)) return "–";
  const { total, completed, failed } = batch.request_counts;
  const done = completed + failed;
  const since = batch.in_progress_at;
  const at = batch.expected_finish_at ?? (done && since ? now + ((now - since) / done) * (total - done) : null);
  if (at === null) return "not known yet";
  const late = at > batch.expires_at;
  return h("span", { class: late ? "late" : "" }, `${moment(at)}${late ? ", after its window" : ""}`);
}

function batchActions({ api, fail, signal }, batch, changed) {
  const post = (what) => async () => {
    try {
      await api.json(`/v1/batches/${encodeURIComponent(batch.id)}/${what}`, { method: "POST", signal });
      changed();
    } catch (error) {
      fail(error);
    }
  };
  const download = (id, name) => async () => {
    try {
      const blob = await (await api.send(`/v1/files/${encodeURIComponent(id)}/content`, { signal })).blob();
      const link = h("a", { href: URL.createObjectURL(blob), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    } catch (error) {
      fail(error);
    }
  };
  const button = (what, text, onclick, kind = "quiet") => h("button", { type: "button", class: kind, "data-key": `${what}-${batch.id}`, onclick, "aria-label": `${text} of ${batch.id}` }, text);
  const running = ["validating", "in_progress", "finalizing"].includes(batch.status);
  return [
    batch.output_file_id && button("output", "Output", download(batch.output_file_id, `${batch.id}-output.jsonl`)),
    batch.error_file_id && button("errors", "Errors", download(batch.error_file_id, `${batch.id}-errors.jsonl`)),
    running && button("cancel", "Cancel", post("cancel"), "danger"),
    !running && batch.status !== "cancelling" && batch.request_counts.failed > 0 && button("retry", "Retry failed", post("retry"), ""),
  ];
}
