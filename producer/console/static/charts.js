// Draws small charts as SVG.

import { svg } from "./dom.js";

/** Returns a line of `values` over time, with its last value in words for screen readers. */
export function sparkline(values, { label, width = 240, height = 40 } = {}) {
  const top = Math.max(1, ...values);
  const step = values.length > 1 ? width / (values.length - 1) : width;
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${(height - 3 - (value / top) * (height - 6)).toFixed(1)}`);
  const line = svg("polyline", { points: points.join(" "), class: "line" });
  const area = svg("polygon", { points: `0,${height} ${points.join(" ")} ${((values.length - 1) * step).toFixed(1)},${height}`, class: "area" });
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "sparkline", role: "img", "aria-label": `${label}: now ${values.at(-1) ?? 0}, at most ${top} in the time shown`, preserveAspectRatio: "none" }, area, line);
}

/** Returns a bar of parts: [value, class, label]. */
export function bar(parts, whole) {
  let x = 0;
  const drawn = parts.filter(([value]) => value > 0).map(([value, kind]) => {
    const width = (100 * value) / whole;
    const part = svg("rect", { x: x.toFixed(2), y: 0, width: width.toFixed(2), height: 8, class: kind });
    x += width;
    return part;
  });
  const words = parts.map(([value, , label]) => `${value} ${label}`).join(", ");
  return svg("svg", { viewBox: "0 0 100 8", class: "bar", role: "img", "aria-label": `${words} of ${whole}`, preserveAspectRatio: "none" }, ...drawn);
}
