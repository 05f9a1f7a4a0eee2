// Reads Prometheus's text format, as far as /metrics uses it.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Returns the samples: [{name, labels, value}]. */
export function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value.replace(/\\(.)/g, "$1")]));
    samples.push({ name: found[1], labels, value: Number(found[3].replace("+Inf", "Infinity")) });
  }
  return samples;
}

export function total(samples, name, where = () => true) {
  return samples.filter((sample) => sample.name === name && where(sample.labels)).reduce((sum, sample) => sum + sample.value, 0);
}

/** Returns the value below which the share `quantile` of a histogram's new observations lie, or null without any. */
export function quantileOf(before, now, name, quantile) {
  const bounds = new Map();
  for (const [samples, sign] of [[now, 1], [before ?? [], -1]]) {
    for (const { labels, value } of samples.filter((sample) => sample.name === `${name}_bucket`)) {
      const bound = Number(labels.le.replace("+Inf", "Infinity"));
      bounds.set(bound, (bounds.get(bound) ?? 0) + sign * value);
    }
  }
  const sorted = [...bounds].sort(([left], [right]) => left - right);
  const all = sorted.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  return sorted.find(([, within]) => within >= quantile * all)[0];
}
