"""Detects tasks, threads, open files and child processes that a block leaves behind."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.wait_until import wait_until


@dataclass(frozen=True)
class Held:
    tasks: frozenset[asyncio.Task[object]]
    threads: frozenset[threading.Thread]
    files: frozenset[str]
    children: frozenset[int]

    @classmethod
    def now(cls) -> "Held":
        return cls(
            frozenset(asyncio.all_tasks()),
            frozenset(_threads()),
            frozenset(_open_files()),
            frozenset(_children()),
        )

    def beyond(self, before: "Held") -> list[str]:
        return [
            *(f"task {task.get_name()}: {task.get_coro()}" for task in self.tasks - before.tasks),
            *(f"thread {thread.name}" for thread in self.threads - before.threads),
            *(f"open file {file}" for file in sorted(self.files - before.files)),
            *(f"child process {pid}" for pid in sorted(self.children - before.children)),
        ]


@asynccontextmanager
async def no_leaks(within: float = 30.0) -> AsyncGenerator[None]:
    """Asserts that everything the block started has ended at its end, or ends `within` seconds."""
    before = Held.now()
    yield
    await wait_until(
        lambda: not Held.now().beyond(before),
        "everything to be given back",
        within,
        seen=lambda: Held.now().beyond(before),
    )


def _threads() -> list[threading.Thread]:
    """Returns the threads, without those of the loop's pool, which stay until the loop is closed."""
    return [each for each in threading.enumerate() if not each.name.startswith("asyncio_")]


def _open_files() -> list[str]:
    """Returns the open files. The name of a socket contains its inode, so a closed and a new socket differ."""
    found: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{entry.name} -> {os.readlink(entry)}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def _children() -> list[int]:
    lists = Path("/proc/self/task").glob("*/children")
    return [int(pid) for each in lists for pid in each.read_text().split()]
