"""Pieces of an answer's body, sent from where they arrive: the task that serves the client is not woken for them.

A server takes a piece without waiting, as long as its client reads. So the sending is begun at once, and is over at
once; only where it has to wait does the task see it to its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any

from starlette.types import Send


class EagerSender:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun: Begun | None = None

    def push(self, data: bytes) -> bool:
        """A sink (see `Follower.next`): False where the sending is not over."""
        begun = Begun(self._send({"type": "http.response.body", "body": data, "more_body": True}))
        if begun.over:
            return True
        self._begun = begun
        return False

    async def settle(self) -> None:
        """Wait for what is not over. Raises what the sending raised."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            await begun


class Begun:
    """An awaitable that has been run up to where it waits. Who awaits it goes on from there."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.over = False
        self._error: BaseException | None = None
        self._steps = awaitable.__await__()
        self._waits_for: Any = None
        try:
            self._waits_for = next(self._steps)
        except StopIteration:
            self.over = True
        except Exception as error:
            self._error = error

    def __await__(self) -> Generator[Any, Any, None]:
        if self._error is not None:
            raise self._error
        waits_for = self._waits_for
        while not self.over:
            try:
                said = yield waits_for
            except BaseException as error:
                resume, argument = self._steps.throw, error
            else:
                resume, argument = self._steps.send, said
            try:
                waits_for = resume(argument)
            except StopIteration:
                self.over = True
