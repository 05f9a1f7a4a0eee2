"""CPU and memory of process trees, as the kernel counts them, and how many files they may open."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

Pids = Mapping[str, int]
"""Of each part of a system, the process at the root of its tree."""


def parents() -> dict[int, int]:
    found: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found[int(entry.name)] = int(stat_of(int(entry.name))[1])
    return found


def stat_of(pid: int) -> list[str]:
    """The fields after the command's name: state, parent, …"""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> set[int]:
    parent_of = parents()
    found = {root}
    while grown := {pid for pid, parent in parent_of.items() if parent in found} - found:
        found |= grown
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    total = 0
    for pid in pids:
        with suppress(OSError):
            fields = stat_of(pid)
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


class Meter:
    """CPU seconds of each part since it was made."""

    def __init__(self, roots: Pids) -> None:
        self._trees = {name: tree(pid) for name, pid in roots.items()}
        self._before = {name: cpu_seconds(pids) for name, pids in self._trees.items()}

    def read(self) -> dict[str, float]:
        return {name: cpu_seconds(pids) - self._before[name] for name, pids in self._trees.items()}


def memory_mb(root: int) -> float:
    """Resident memory, what is shared with other processes by its share."""
    total = 0
    for pid in tree(root):
        with suppress(OSError):
            rollup = (PROC / str(pid) / "smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def memory_of(roots: Pids) -> dict[str, float]:
    return {name: round(memory_mb(pid), 1) for name, pid in roots.items()}


def raise_open_files() -> None:
    """As many as this process is allowed, for itself and for what it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
