"""Pipelines commands: those of one event-loop iteration, and those that arrive during a round trip, share the next
round trip.

Most commands are sent at once. A batchable command (a frame of a stream that has begun) waits for others until GATHER
after the last round trip. At ten thousand tokens per second, this turns twenty round trips into one. A single stream
does not wait, because its last round trip was longer ago than GATHER.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from shared.errors import BackendUnavailable

Argument = bytes | str | int | float
Command = tuple[Argument, ...]

ANSWER_TIMEOUT = 5.0
"""Seconds a round trip may take before the store counts as unavailable."""

BATCH = 512
"""Most commands per round trip. More would share its cost better, but delay the answers."""

GATHER = 0.002
"""Seconds from one round trip to the next while only batchable commands wait."""

Exchange = Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]
"""Sends commands in one round trip, and returns one answer or error for each. Raises BackendUnavailable if the server
does not answer.
"""


class PendingCommand(NamedTuple):
    """A command that waits for its answer. `since`: loop time at which it was added."""

    future: asyncio.Future[Any]
    command: Command | Callable[[], Command]
    read: Callable[[Any], Any] | None
    since: float


class Gathering:
    """Gathers commands and sends them together. One round trip at a time, so that more gather when Redis is busy."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._waiting: list[PendingCommand] = []
        self._runner: asyncio.Task[None] | None = None
        self._flushing = False
        self._gathering: asyncio.Future[None] | None = None
        self._sent_at = 0.0

    def send(
        self,
        command: Command | Callable[[], Command],
        *,
        read: Callable[[Any], Any] | None = None,
        batchable: bool = False,
    ) -> asyncio.Future[Any]:
        """Queues a command. The future gets its answer, converted by `read`, or BackendUnavailable. A function is
        called when the command is sent, so that the command can include what was added until then.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(PendingCommand(future, command, read=read, since=loop.time()))
        if not batchable:
            self.flush()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name="redis-pipeline")
        return future

    def flush(self) -> None:
        """Sends the gathered commands without waiting for more."""
        self._flushing = True
        if self._gathering is not None:
            set_done(self._gathering)

    async def close(self) -> None:
        self.flush()
        if self._runner is not None:
            await asyncio.gather(self._runner, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                if not self._flushing:
                    await self._gather()
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                self._flushing = bool(self._waiting)
                await self._send(batch)
        finally:
            self._runner = None
            for each in self._waiting:
                each.future.cancel()

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._sent_at >= GATHER:
            return
        self._gathering = loop.create_future()
        timer = loop.call_later(GATHER, set_done, self._gathering)
        try:
            await self._gathering
        finally:
            timer.cancel()
            self._gathering = None

    async def _send(self, batch: list[PendingCommand]) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        try:
            commands = [each.command() if callable(each.command) else each.command for each in batch]
            answers = await self._exchange(commands)
        except BackendUnavailable as failure:
            batch += self._take_overdue()
            answers = [failure] * len(batch)
        except BaseException:
            for each in batch:
                each.future.cancel()
            raise
        for each, answer in zip(batch, answers, strict=True):
            resolve(each, answer)

    def _take_overdue(self) -> list[PendingCommand]:
        """Removes commands that have waited too long; they fail together with this round trip."""
        since = asyncio.get_running_loop().time() - ANSWER_TIMEOUT / 2
        overdue = [each for each in self._waiting if each.since < since]
        self._waiting = [each for each in self._waiting if each.since >= since]
        return overdue


def set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def resolve(waiting: PendingCommand, answer: Any) -> None:
    """Resolves a command's future with its answer or error, unless it is done."""
    future, read = waiting.future, waiting.read
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
        return
    try:
        future.set_result(answer if read is None else read(answer))
    except Exception as refusal:
        future.set_exception(refusal)
