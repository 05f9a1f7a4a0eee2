"""A subscription to one channel of Redis, which is renewed after each lost connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from shared.aio import first
from shared.backends.redis.connection.driver import FAILURES, Wire, unavailable
from shared.retry import retry_while_unavailable

log = structlog.get_logger(__name__)

PING_AFTER = 5.0
"""Seconds without a message after which the subscription sends a PING, because a connection that was lost silently
cannot be distinguished from a quiet channel.
"""


RESUBSCRIBE_PAUSES = (0.05, 0.25)


class Subscription:
    """Subscribes to one channel. Calls `receive` for each message, and `broken` after each lost connection, when it has
    subscribed again. Messages may have been lost then, so the owner must read its data from the store.

    `wires` returns new connections, of which the first that works is used. `ping_after`: see PING_AFTER.
    """

    def __init__(
        self,
        wires: Callable[[], Sequence[Wire]],
        channel: str,
        receive: Callable[[bytes], None],
        broken: Callable[[], None],
        *,
        ping_after: float = PING_AFTER,
    ) -> None:
        self._wires = wires
        self._wire = wires()[0]
        self._channel = channel
        self._receive = receive
        self._broken = broken
        self._ping_after = ping_after
        self._received = 0
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribes. Messages that are published after this returns are received. Raises BackendUnavailable."""
        try:
            await self._subscribe()
        except FAILURES as error:
            raise unavailable(error) from error
        self._task = asyncio.create_task(self._listen(), name=f"redis-subscription {self._channel}")

    @property
    def task(self) -> asyncio.Task[None]:
        """The receiving task. It ends on `close`, or with an error, so the owner must watch it."""
        assert self._task is not None
        return self._task

    @property
    def ended(self) -> bool:
        """Whether the receiving task has ended."""
        return self._task is not None and self._task.done()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._wire.close()

    async def _subscribe(self) -> None:
        failure: Exception | None = None
        for wire in self._wires():
            self._wire = wire
            try:
                return await self._ask()
            except FAILURES as error:
                failure = error
                await wire.close()
        assert failure is not None
        raise failure

    async def _ask(self) -> None:
        answer = (await self._wire.round_trip([("SUBSCRIBE", self._channel)]))[0]
        if isinstance(answer, Exception):
            raise answer

    async def _listen(self) -> None:
        while True:
            try:
                await first(self._receive_all(), self._watch())
            except FAILURES as error:
                log.warning(
                    "redis.subscription_lost", channel=self._channel, error=str(error), next="subscribing again"
                )
            await self._wire.close()
            await retry_while_unavailable(
                self._subscribe, on=FAILURES, pauses=RESUBSCRIBE_PAUSES, report=lambda error, pause: None
            )
            self._broken()

    async def _receive_all(self) -> None:
        """Receives messages. Those that arrive together are passed on in one iteration of the loop."""
        while True:
            message = await self._wire.receive()
            self._received += 1
            if isinstance(message, Exception):
                raise message
            if message[0] == b"message":
                self._receive(message[2])

    async def _watch(self) -> None:
        """Raises TimeoutError if the server does not answer a PING. A separate task, so that no message needs a
        timer.
        """
        while True:
            received = self._received
            await asyncio.sleep(self._ping_after)
            if received == self._received:
                await self._wire.send(("PING",))
                await asyncio.sleep(self._ping_after)
                if received == self._received:
                    raise TimeoutError("no answer to a ping")


@asynccontextmanager
async def listening(subscription: Subscription) -> AsyncGenerator[Subscription]:
    """Opens the subscription, and closes it on exit. Raises BackendUnavailable."""
    await subscription.open()
    try:
        yield subscription
    finally:
        await subscription.close()
