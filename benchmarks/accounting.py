"""CPU and memory of process trees, as the kernel counts them, and their limits of open files."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

Pids = Mapping[str, int]
"""The root process of each part of a system."""


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


def cpu_seconds(pid: int) -> float | None:
    """Returns the process's fields, or None if it has ended."""
    with suppress(OSError):
        fields = stat_of(pid)
        return (int(fields[11]) + int(fields[12])) / TICKS
    return None


class Meter:
    """Returns the CPU seconds of each part since this object was created, without processes that have ended."""

    def __init__(self, roots: Pids) -> None:
        self._before = {name: {pid: cpu_seconds(pid) or 0.0 for pid in tree(root)} for name, root in roots.items()}

    def read(self) -> dict[str, float]:
        return {
            name: sum(now - before for pid, before in parts.items() if (now := cpu_seconds(pid)) is not None)
            for name, parts in self._before.items()
        }


def memory_mb(root: int) -> float:
    """Returns the resident memory. Shared memory is divided by the number of processes that share it."""
    total = 0
    for pid in tree(root):
        with suppress(OSError):
            rollup = (PROC / str(pid) / "smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def memory_of(roots: Pids) -> dict[str, float]:
    return {name: round(memory_mb(pid), 1) for name, pid in roots.items()}


def raise_open_files() -> None:
    """Raises the limit of open files to the hard limit, for this process and its children."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
