"""Redis's driver, and the only file that imports it: a connection, and what its errors mean."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.backends.redis.connection.gathering import ANSWER_TIMEOUT, Command
from shared.backends.redis.connection.scripts import script, steps
from shared.errors import StoreUnavailable, sentence

CONNECT_TIMEOUT = 2.0

FAILURES = (RedisError, OSError, RuntimeError)
"""What a broken connection raises; RuntimeError is uvloop's word for writing to a closed one."""


pack = cast(Callable[[Command], bytes], hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

AWAY = {
    *("READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "BUSY", "NOREPLICAS"),
    *("NOAUTH", "NOPERM", "WRONGPASS"),
}
"""The codes of refusals with which Redis says that it cannot serve at present, or not this user."""


SLOTS = REDIS_CLUSTER_HASH_SLOTS
"""Parts that a cluster's keys are divided into; each is at one node."""

REFUSES_WRITES = {
    "OOM": "The store (Redis) is full and takes nothing new.",
    "MISCONF": "The store (Redis) cannot write to its disk and takes nothing new.",
    "READONLY": "The store (Redis) is read-only at present and takes nothing new.",
}
"""By the code of a refusal: what clients may read of it. Redis's own words may name addresses and scripts."""

WRITES_RETRY = 10.0
"""Seconds after which a client should try again: nothing mends this at once."""


def unavailable(error: Exception) -> StoreUnavailable:
    if (refusal := REFUSES_WRITES.get(code_of(error))) is not None:
        return StoreUnavailable(refusal, retry_after=WRITES_RETRY, detail=sentence(error))
    return StoreUnavailable("The store (Redis) does not answer.", retry_after=2, detail=explained(error))


HANGS_UP = ("closed by server", "connection lost", "reset by peer", "broken pipe")
"""The driver's words for a server that closes the connection before it answers."""


def explained(error: Exception) -> str:
    """What operators should look at; the driver's own words name the address where they help."""
    said = sentence(error)
    match error:
        case AuthenticationError():
            return f"it refuses the user or the password ({said})"
        case NoPermissionError():
            return f"the user may not do what Ignite needs ({said})"
        case InvalidResponse():
            return "what answers there is no Redis: see the port"
        case RedisTimeoutError():
            return f"{said} (see host and port, and whether TLS is spoken there: redis: or rediss:)"
        case RedisConnectionError() if any(words in said.lower() for words in HANGS_UP):
            return f"{said} (it is no Redis: see the port; or it wants TLS: rediss:)"
        case _:
            return said


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

    async def send(self, *commands: Command) -> None:
        """Raises one of FAILURES."""
        if not self._connection.is_connected:
            await self._connection.connect()
        await self._connection.send_packed_command(b"".join(map(pack, commands)), check_health=False)

    async def receive(self) -> Any:
        """The next answer; a refusal is one. Waits for ever; raises one of FAILURES."""
        try:
            return cast(Any, await self._connection.read_response(timeout=math.inf))
        except ResponseError as refusal:
            return refusal

    async def round_trip(self, commands: Sequence[Command]) -> list[Any]:
        """Tried once more over a fresh connection where the old one had died unnoticed; silence is not asked twice."""
        retried = False
        while True:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    await self.send(*commands)
                    return [await self.receive() for _ in commands]
            except TimeoutError:
                await self.close()
                raise RedisTimeoutError(f"no answer within {ANSWER_TIMEOUT:.0f} seconds") from None
            except BaseException as error:
                # Answers that were not read would be taken for those of the next commands.
                await self.close()
                if retried or not isinstance(error, RedisConnectionError):
                    raise
                retried = True

    async def close(self) -> None:
        with suppress(*FAILURES):
            await self._connection.disconnect(nowait=True)


class Steps:
    """Commands and Lua steps over one wire, as the pipeline sends them."""

    def __init__(self, url: str) -> None:
        self._wire = Wire(url)

    async def exchange(self, commands: Sequence[Command]) -> Sequence[Any]:
        """The answers, or in the place of one the error it was refused with. Raises StoreUnavailable."""
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
    return code_of(answer) in AWAY


def code_of(answer: Any) -> str:
    """The word that a refusal of Redis's begins with; empty for everything else."""
    if not isinstance(answer, ResponseError):
        return ""
    # The driver takes the code off the words of those errors that it has a class for.
    return answer.status_code or str(answer).partition(" ")[0]


class Redirect(NamedTuple):
    """Where a node of a cluster says that a command belongs: from now on, or `once`. No host: its own."""

    host: str
    port: int
    once: bool


def redirect_of(answer: Any) -> Redirect | None:
    if not isinstance(answer, AskError):
        return None
    host, port = cast(tuple[str, int], answer.node_addr)  # pyright: ignore[reportUnknownMemberType]
    return Redirect(host, port, once=not isinstance(answer, MovedError))


def slot_of(key: str) -> int:
    """Which of SLOTS a key is in."""
    return key_slot(key.encode())
