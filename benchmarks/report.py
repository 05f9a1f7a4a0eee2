"""Results as a table: medians over the rounds with the least and the most, and ratios to the bare server's value of the
same round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

Record = dict[str, Any]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Formats `median (least–most)`."""
    if not values:
        return "–"
    middle, least, most = (f"{round(value, digits):g}" for value in (median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}–{most})"


def of(records: Iterable[Record], workload: str, system: str) -> list[Record]:
    return [each for each in records if each["workload"] == workload and each["system"] == system]


def ratios(records: Sequence[Record], workload: str, system: str) -> list[float]:
    bare = {each["round"]: each["value"] for each in of(records, workload, "bare")}
    return [each["value"] / bare[each["round"]] for each in of(records, workload, system) if bare.get(each["round"])]


def added(records: Sequence[Record], workload: str, system: str, name: str) -> list[float]:
    bare = {each["round"]: each[name] for each in of(records, workload, "bare") if name in each}
    return [each[name] - bare[each["round"]] for each in of(records, workload, system) if each["round"] in bare]


def figures(each: Record, name: str) -> float:
    value = each.get(name)
    return sum(value.values()) if isinstance(value, dict) else value


ROWS: dict[str, Sequence[tuple[str, str]]] = {
    "streams": [("tokens/s", "value"), ("CPU ms per 1000 tokens", "cpu_ms_per_1000")],
    "paced": [
        ("tokens/s", "value"),
        ("first token p50, ms", "first_p50_ms"),
        ("first token p99, ms", "first_p99_ms"),
        ("gap p99, ms", "gap_p99_ms"),
        ("CPU ms per 1000 tokens", "cpu_ms_per_1000"),
    ],
    "unary": [("calls/s", "value"), ("latency p50, ms", "latency_p50_ms"), ("CPU ms per call", "cpu_ms_per_call")],
    "jobs": [
        ("submitted/s", "value"),
        ("submitted, run and checked/s", "drained_per_second"),
        ("submit to result p50, ms", "job_p50_ms"),
        ("CPU ms per job", "cpu_ms_per_job"),
    ],
    "crowd": [
        ("streams", "value"),
        ("KB per stream", "kb_per_stream"),
        ("missed paces", "missed_paces"),
        ("of", "tokens"),
        ("late p99, ms", "late_p99_ms"),
        ("late at most, ms", "late_most_ms"),
        ("first token p50, ms", "first_p50_ms"),
        ("first token p99, ms", "first_p99_ms"),
        ("CPU ms per 1000 tokens", "cpu_ms_per_1000"),
    ],
    "start": [("seconds, the slowest process", "value")],
    "idle": [("CPU ms per minute", "cpu_ms_per_minute"), ("Redis commands/s", "redis_commands_per_second")],
}

RATES = {"streams", "paced", "unary"}
"""Workloads of which higher values are better."""


def table(records: Sequence[Record]) -> str:
    """Formats the results as Markdown."""
    systems = list(dict.fromkeys(each["system"] for each in records))
    lines = [f"| | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    for workload in dict.fromkeys(each["workload"] for each in records):
        for label, name in ROWS.get(workload, ()):
            cells = [
                spread([figures(each, name) for each in of(records, workload, system) if name in each])
                for system in systems
            ]
            lines.append(f"| {workload}: {label} | {' | '.join(cells)} |")
        if workload in RATES and of(records, workload, "bare"):
            cells = [spread(ratios(records, workload, system)) for system in systems]
            lines.append(f"| **{workload}: ratio to bare** | {' | '.join(cells)} |")
        for label, name in (("p50", "first_p50_ms"), ("p99", "first_p99_ms")):
            if workload == "paced" and of(records, workload, "bare"):
                cells = [spread(added(records, workload, system, name), 2) for system in systems]
                lines.append(f"| **paced: added to the first token, {label}, ms** | {' | '.join(cells)} |")
    return "\n".join(lines)


def parts(records: Sequence[Record]) -> str:
    """Formats the CPU of Ignite by process, as Markdown."""
    lines: list[str] = []
    for workload, name in (
        ("streams", "cpu_ms_per_1000"),
        ("paced", "cpu_ms_per_1000"),
        ("unary", "cpu_ms_per_call"),
        ("jobs", "cpu_ms_per_job"),
        ("crowd", "kb_per_stream"),
        ("crowd", "cpu_ms_per_1000"),
        ("crowd", "memory_most_mb"),
        ("idle", "cpu_ms_per_minute"),
        ("idle", "memory_mb"),
        ("start", "seconds"),
    ):
        for system in ("distributed", "embedded"):
            found = of(records, workload, system)
            if found:
                by_part = {part: spread([each[name][part] for each in found]) for part in found[0][name]}
                said = ", ".join(f"{part} {value}" for part, value in by_part.items())
                lines.append(f"- {workload}, {system} ({name}): {said}")
    return "\n".join(lines)
