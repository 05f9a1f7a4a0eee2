"""Redis's driver, and the only file that imports it: one pipelined connection for every step, one subscription for
life.

Steps called in one event-loop turn, and those that gather while a round trip is under way, share the next round trip.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.errors import BackendUnavailable, sentence
from shared.racing import first

log = structlog.get_logger(__name__)

Argument = bytes | str | int | float
LUA = Path(__file__).parent / "lua"

CONNECT_TIMEOUT = 2.0
ANSWER_TIMEOUT = 5.0
"""Seconds a round trip may take before the store counts as unavailable."""

PING_AFTER = 5.0
"""Seconds of silence after which a subscription asks whether anybody is there: a wire that was cut without a word looks
just like a channel on which nothing happens.
"""

BATCH = 512
"""Commands per round trip: enough to share its cost, few enough that nobody waits long for the answers."""

FAILURES = (RedisError, OSError, RuntimeError)
"""What a broken connection raises; RuntimeError is uvloop's word for writing to a closed one."""


class Script:
    """One atomic step: `prelude.lua` and the step's own file."""

    def __init__(self, name: str) -> None:
        self.source = (LUA / "prelude.lua").read_text() + (LUA / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    return Script(name)


def unavailable(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(f"The store (Redis) does not answer: {sentence(error)}.", retry_after=2)


def connect(url: str) -> Redis:
    """A client that fails fast: whoever calls decides about trying again."""
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=ANSWER_TIMEOUT,
        # Once more over a fresh connection, where the old one had died unnoticed; silence is not asked twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        max_connections=16,
    )


class Waiting(NamedTuple):
    """A command whose answer somebody awaits, since the loop's clock said `since`."""

    future: asyncio.Future[Any]
    arguments: tuple[Argument, ...]
    since: float


class Pipeline:
    """Gathers commands and sends them together. One round trip at a time, so that more gather when Redis is busy."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: list[Waiting] = []
        self._runner: asyncio.Task[None] | None = None

    def command(self, *arguments: Argument) -> asyncio.Future[Any]:
        """Under way when this returns; its answer, or BackendUnavailable, comes with the future."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(Waiting(future, arguments, loop.time()))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name="redis-pipeline")
        return future

    def step(self, name: str, keys: Sequence[str], *arguments: Argument) -> asyncio.Future[Any]:
        """Run the Lua step `name`."""
        return self.command("EVALSHA", script(name).sha, len(keys), *keys, *arguments)

    async def close(self) -> None:
        if self._runner is not None:
            await asyncio.gather(self._runner, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._send(batch)
        finally:
            self._runner = None
            for each in self._waiting:
                each.future.cancel()

    async def _send(self, batch: list[Waiting]) -> None:
        try:
            answers = await self._exchange([each.arguments for each in batch])
        except FAILURES as error:
            failure = unavailable(error)
            batch += self._tired()
            answers = [failure] * len(batch)
        except BaseException:
            for each in batch:
                each.future.cancel()
            raise
        for each, answer in zip(batch, answers, strict=True):
            resolve(each.future, answer)

    def _tired(self) -> list[Waiting]:
        """Those who have waited so long for their turn that they need not wait as long again to hear the same."""
        since = asyncio.get_running_loop().time() - ANSWER_TIMEOUT / 2
        tired = [each for each in self._waiting if each.since < since]
        self._waiting = [each for each in self._waiting if each.since >= since]
        return tired

    async def _exchange(self, commands: list[tuple[Argument, ...]]) -> list[Any]:
        answers = await self._round_trip(commands)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            await self._load({str(commands[index][1]) for index in unknown})
            again = await self._round_trip([commands[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        return answers

    async def _round_trip(self, commands: list[tuple[Argument, ...]]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # pyright: ignore[reportUnknownMemberType]
            return await pipe.execute(raise_on_error=False)

    async def _load(self, shas: set[str]) -> None:
        """A new or restarted Redis knows no scripts."""
        known = (script(path.stem) for path in LUA.glob("*.lua") if path.stem != "prelude")
        for item in known:
            if item.sha in shas:
                await self._client.script_load(item.source)


def resolve(future: asyncio.Future[Any], answer: Any) -> None:
    """Hand an answer, or the error in its place, to whoever still waits."""
    if future.done():
        return
    if isinstance(answer, Exception) and is_away(answer):
        future.set_exception(unavailable(answer))
    elif isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def is_away(error: Exception) -> bool:
    """Whether Redis cannot serve at present, as opposed to refusing this command."""
    if isinstance(error, ResponseError):
        return str(error).startswith(("LOADING", "READONLY", "MASTERDOWN", "OOM", "MISCONF"))
    return isinstance(error, RedisConnectionError | RedisTimeoutError)


class Subscription:
    """One channel for life. Calls `receive` for each message, and `broken` once per lost connection, after which
    it subscribes again: whoever listens must then look at the truth, since messages were lost.
    """

    def __init__(self, url: str, channel: str, receive: Callable[[bytes], None], broken: Callable[[], None]) -> None:
        self._client = connect(url)
        self._channel = channel
        self._receive = receive
        self._broken = broken
        self._heard = 0
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Returns when messages will no longer be missed."""
        try:
            pubsub = await self._subscribe()
        except FAILURES as error:
            await self._client.aclose()
            raise unavailable(error) from error
        self._task = asyncio.create_task(self._listen(pubsub), name=f"redis-subscription {self._channel}")

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
        with suppress(*FAILURES):
            await self._client.aclose()

    async def _subscribe(self) -> PubSub:
        pubsub = self._client.pubsub(ignore_subscribe_messages=False)  # pyright: ignore[reportUnknownMemberType]
        await pubsub.subscribe(self._channel)  # pyright: ignore[reportUnknownMemberType]
        await pubsub.parse_response(block=True, timeout=ANSWER_TIMEOUT)
        return pubsub

    async def _listen(self, pubsub: PubSub) -> None:
        while True:
            try:
                await first(self._receive_all(pubsub), self._watch(pubsub))
            except FAILURES as error:
                log.warning(
                    "redis.subscription_lost", channel=self._channel, error=str(error), next="subscribing again"
                )
            await close_quietly(pubsub)
            pubsub = await self._resubscribe()
            self._broken()

    async def _receive_all(self, pubsub: PubSub) -> None:
        while True:
            message = cast(list[Any], await pubsub.parse_response(block=True))
            self._heard += 1
            if message[0] == b"message":
                self._receive(message[2])

    async def _watch(self, pubsub: PubSub) -> None:
        """Raises once the wire is silent though somebody was asked. Beside the reading, so that a message costs no
        timer.
        """
        while True:
            heard = self._heard
            await asyncio.sleep(PING_AFTER)
            if heard == self._heard:
                await pubsub.ping()  # pyright: ignore[reportUnknownMemberType]
                await asyncio.sleep(PING_AFTER)
                if heard == self._heard:
                    raise RedisTimeoutError("no answer to a ping")

    async def _resubscribe(self) -> PubSub:
        delay = 0.05
        while True:
            try:
                return await self._subscribe()
            except FAILURES:
                await asyncio.sleep(delay)
                delay = min(delay * 2, 0.25)


async def close_quietly(pubsub: PubSub) -> None:
    with suppress(*FAILURES):
        await pubsub.aclose()


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


class RedisServer:
    """One Redis, as the ports see it: steps through the pipeline, messages through subscriptions."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = connect(url)
        self.pipeline = Pipeline(self._client)

    async def close(self) -> None:
        await self.pipeline.close()
        await self._client.aclose()
