"""Owns the producer's background tasks, and remembers which parts fail."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog

from shared.errors import IgniteError

log = structlog.get_logger(__name__)


class Health:
    """Runs background tasks. A task that ends before `close` is logged and makes this replica not ready."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.dead_tasks: dict[str, str] = {}
        self._failing: frozenset[str] = frozenset()

    def run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        log.critical(
            "background.died", task=task.get_name(), exc_info=task.exception(), next="this replica is not ready"
        )
        self.dead_tasks[task.get_name()] = "this background task has stopped: restart the process"

    def log_changes(self, parts: Mapping[str, IgniteError | None]) -> None:
        """Logs parts that have failed or recovered since the last probe. The details are for the log only."""
        failing = frozenset(name for name, problem in parts.items() if problem is not None)
        for name in sorted(failing - self._failing):
            log.warning("readiness.lost", part=name, error=str(parts[name]), next="checked again at the next probe")
        for name in sorted(self._failing - failing):
            log.info("readiness.back", part=name)
        self._failing = failing

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
