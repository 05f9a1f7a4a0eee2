"""Redis's driver, and the only file that imports it: one pipelined connection for every step, one subscription for
life.

Steps called in one event-loop turn, and those that gather while a round trip is under way, share the next round trip.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.backends.redis_pipeline import ANSWER_TIMEOUT, Argument, Command, Gathering
from shared.errors import BackendUnavailable, sentence
from shared.racing import first

log = structlog.get_logger(__name__)

LUA = Path(__file__).parent / "lua"

CONNECT_TIMEOUT = 2.0

PING_AFTER = 5.0
"""Seconds of silence after which a subscription asks whether anybody is there: a wire that was cut without a word looks
just like a channel on which nothing happens.
"""

FAILURES = (RedisError, OSError, RuntimeError)
"""What a broken connection raises; RuntimeError is uvloop's word for writing to a closed one."""


pack = cast(Callable[[Command], bytes], hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

AWAY = {"READONLY", "MASTERDOWN", "CLUSTERDOWN", "OOM", "MISCONF"}
"""The codes of refusals with which Redis says that it cannot serve at present."""


PRELUDE = "prelude"
"""How the files begin that are no steps: what all steps share, and what those of one family do."""


def steps() -> Sequence[str]:
    """The names of all steps."""
    return [path.stem for path in LUA.glob("*.lua") if not path.stem.startswith(PRELUDE)]


class Script:
    """One atomic step: the prelude of all steps, that of its family (`line_…`, `limit_…`), and the step's own file.

    Each call runs all of it, so a step carries what it needs and no more.
    """

    def __init__(self, name: str) -> None:
        family = name.partition("_")[0]
        parts = (LUA / f"{part}.lua" for part in (PRELUDE, f"{PRELUDE}_{family}", name))
        self.source = "".join(part.read_text() for part in parts if part.exists())
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    return Script(name)


def unavailable(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(f"The store (Redis) does not answer: {sentence(error)}.", retry_after=2)


class Wire:
    """One connection, opened when it is needed and again after it broke."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            socket_connect_timeout=CONNECT_TIMEOUT,
            # One timer for a whole round trip, not one for each of its answers.
            socket_timeout=None,
            # Answers as they have always been: what the newer protocol adds costs time and tells us nothing.
            protocol=2,
            # Whoever calls decides about trying again.
            retry=Retry(NoBackoff(), 0),
        )
        self._connection: AbstractConnection = self._pool.make_connection()

    async def open(self) -> None:
        """Raises one of FAILURES."""
        if not self._connection.is_connected:
            await self._connection.connect()

    async def send(self, *commands: Command) -> None:
        """Raises one of FAILURES."""
        await self.open()
        await self._connection.send_packed_command(b"".join(map(pack, commands)), check_health=False)

    async def receive(self) -> Any:
        """The next answer; a refusal is one. Waits for ever; raises one of FAILURES."""
        try:
            return cast(Any, await self._connection.read_response(timeout=math.inf))
        except ResponseError as refusal:
            return refusal

    async def round_trip(self, commands: Sequence[Command]) -> list[Any]:
        """Tried once more over a fresh connection where the old one had died unnoticed; silence is not asked twice."""
        try:
            return await self._exchange(commands)
        except RedisConnectionError:
            return await self._exchange(commands)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self.send(*commands)
                return [await self.receive() for _ in commands]
        except TimeoutError:
            await self.close()
            raise RedisTimeoutError(f"no answer within {ANSWER_TIMEOUT:.0f} seconds") from None
        except BaseException:
            # Whatever was not read would be taken for the answers to the next commands.
            await self.close()
            raise

    async def close(self) -> None:
        with suppress(*FAILURES):
            await self._connection.disconnect(nowait=True)


class Steps:
    """Commands and Lua steps over one wire, as the pipeline sends them."""

    def __init__(self, url: str) -> None:
        self._wire = Wire(url)

    async def exchange(self, commands: Sequence[Command]) -> Sequence[Any]:
        """The answers, or in the place of one the error it was refused with. Raises BackendUnavailable."""
        try:
            answers = await self._wire.round_trip(commands)
            unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                await self._load({str(commands[index][1]) for index in unknown})
                again = await self._wire.round_trip([commands[index] for index in unknown])
                for index, answer in zip(unknown, again, strict=True):
                    answers[index] = answer
        except FAILURES as error:
            raise unavailable(error) from error
        return [unavailable(answer) if is_away(answer) else answer for answer in answers]

    async def _load(self, shas: set[str]) -> None:
        """A new or restarted Redis knows no scripts."""
        known = map(script, steps())
        await self._wire.round_trip([("SCRIPT", "LOAD", item.source) for item in known if item.sha in shas])

    async def close(self) -> None:
        await self._wire.close()


def is_away(answer: Any) -> bool:
    """Whether Redis cannot serve at present, as opposed to refusing this command."""
    if not isinstance(answer, ResponseError):
        return False
    # The driver takes the code off the words of those errors that it has a class for.
    return (answer.status_code or str(answer).partition(" ")[0]) in AWAY


class Subscription:
    """One channel for life. Calls `receive` for each message, and `broken` once per lost connection, after which
    it subscribes again: whoever listens must then look at the truth, since messages were lost.
    """

    def __init__(self, url: str, channel: str, receive: Callable[[bytes], None], broken: Callable[[], None]) -> None:
        self._wire = Wire(url)
        self._channel = channel
        self._receive = receive
        self._broken = broken
        self._heard = 0
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Returns when messages will no longer be missed."""
        try:
            await self._subscribe()
        except FAILURES as error:
            raise unavailable(error) from error
        self._task = asyncio.create_task(self._listen(), name=f"redis-subscription {self._channel}")

    @property
    def task(self) -> asyncio.Task[None]:
        """Ends only when closed, or with the error that ended it: its owner must watch it."""
        assert self._task is not None
        return self._task

    @property
    def ended(self) -> bool:
        """Whether it was opened and has died."""
        return self._task is not None and self._task.done()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._wire.close()

    async def _subscribe(self) -> None:
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
            await self._resubscribe()
            self._broken()

    async def _receive_all(self) -> None:
        """What has come together is handed on together, in one turn of the loop."""
        while True:
            message = await self._wire.receive()
            self._heard += 1
            if isinstance(message, Exception):
                raise message
            if message[0] == b"message":
                self._receive(message[2])

    async def _watch(self) -> None:
        """Raises once the wire is silent though somebody was asked. Beside the reading, so that a message costs no
        timer.
        """
        while True:
            heard = self._heard
            await asyncio.sleep(PING_AFTER)
            if heard == self._heard:
                await self._wire.send(("PING",))
                await asyncio.sleep(PING_AFTER)
                if heard == self._heard:
                    raise RedisTimeoutError("no answer to a ping")

    async def _resubscribe(self) -> None:
        delay = 0.05
        while True:
            try:
                return await self._subscribe()
            except FAILURES:
                await asyncio.sleep(delay)
                delay = min(delay * 2, 0.25)


@asynccontextmanager
async def subscription(
    url: str, channel: str, receive: Callable[[bytes], None], broken: Callable[[], None]
) -> AsyncGenerator[Subscription]:
    opened = Subscription(url, channel, receive, broken)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


class Pipeline(Gathering):
    def step(
        self,
        name: str,
        keys: Sequence[str],
        *arguments: Argument,
        read: Callable[[Any], Any] | None = None,
        patient: bool = False,
    ) -> asyncio.Future[Any]:
        """Run the Lua step `name`."""
        return self.command("EVALSHA", script(name).sha, len(keys), *keys, *arguments, read=read, patient=patient)


class RedisServer:
    """One Redis, as the ports see it: steps through the pipeline, messages through subscriptions."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._steps = Steps(url)
        self.pipeline = Pipeline(self._steps.exchange)

    async def close(self) -> None:
        await self.pipeline.close()
        await self._steps.close()
