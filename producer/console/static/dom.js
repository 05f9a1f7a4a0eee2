// Builds DOM nodes. Text is always set as text: nothing that a server or a user wrote is parsed as HTML.

/** Returns an element. Properties that begin with "on" are event listeners; `class` and `data-…` are attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Replaces the children of `element`, and keeps the keyboard focus on the control with the same `data-key`. */
export function show(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (focused) element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/** Returns a table. `columns`: [heading, cell of a row, class]. `empty`: what the reader can do when there are no rows. */
export function table({ caption, columns, rows, empty }) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map(([heading, , kind]) => h("th", { scope: "col", class: kind }, heading)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row)))))),
    ),
  );
}

export function card(title, ...children) {
  return h("section", { class: "card" }, title && h("h2", {}, title), ...children);
}

export function pairs(entries) {
  return h("dl", {}, entries.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** Returns a labelled control, with room for the server's error about it. `name`: the request field. */
export function field(label, control, { name, hint } = {}) {
  const id = control.id || `field-${(name ?? label).replace(/\W+/g, "-").toLowerCase()}`;
  control.id = id;
  const error = h("span", { class: "field-error", id: `${id}-error`, role: "alert" });
  control.setAttribute("aria-describedby", error.id);
  return h("div", { class: "field", "data-field": name ?? "" }, h("label", { for: id }, label), control, hint && h("span", { class: "hint" }, hint), error);
}

/** Shows an API error beside the field that its `param` names, else in `notice`. */
export function showError(form, notice, error) {
  for (const place of form.querySelectorAll(".field-error")) place.textContent = "";
  for (const control of form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  notice.textContent = "";
  if (!error) return;
  const root = (error.param ?? "").split(/[.[]/)[0];
  const wanted = [...form.querySelectorAll(".field")].find((each) => root && each.dataset.field.split(" ").includes(root));
  if (!wanted) {
    notice.textContent = error.message;
    return;
  }
  wanted.querySelector(".field-error").textContent = error.message;
  const control = wanted.querySelector("input, select, textarea");
  control.setAttribute("aria-invalid", "true");
  control.focus();
}

export function notice(kind = "error") {
  return h("p", { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status" });
}

export function copyButton(text) {
  const button = h("button", { type: "button", class: "quiet", onclick: async () => {
    await navigator.clipboard.writeText(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  } }, "Copy");
  return button;
}
