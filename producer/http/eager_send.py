"""Writes chunks to the socket from the subscriber callback, without waking the request's task.

The server takes a chunk without waiting as long as its client reads, so `send` usually finishes in its first step.
Where it has to wait, the request's task finishes it (`flush`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any

from starlette.types import Send


class EagerSender:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._unfinished: EagerAwaitable | None = None

    def push(self, data: bytes) -> bool:
        """Sends a chunk; a sink for `Follower.next`. Returns False where `flush` has to finish the write."""
        started = EagerAwaitable(self._send({"type": "http.response.body", "body": data, "more_body": True}))
        if started.done:
            return True
        self._unfinished = started
        return False

    async def flush(self) -> None:
        """Finishes the write that is still open. Raises what `send` raised."""
        if self._unfinished is not None:
            started, self._unfinished = self._unfinished, None
            await started


class EagerAwaitable:
    """Runs an awaitable up to its first wait; awaiting this object resumes it there."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.done = False
        self._error: BaseException | None = None
        self._steps = awaitable.__await__()
        self._waits_for: Any = None
        try:
            self._waits_for = next(self._steps)
        except StopIteration:
            self.done = True
        except Exception as error:
            self._error = error

    def __await__(self) -> Generator[Any, Any, None]:
        if self._error is not None:
            raise self._error
        waits_for = self._waits_for
        while not self.done:
            try:
                value = yield waits_for
            except BaseException as error:
                resume, argument = self._steps.throw, error
            else:
                resume, argument = self._steps.send, value
            try:
                waits_for = resume(argument)
            except StopIteration:
                self.done = True
