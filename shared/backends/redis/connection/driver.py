"""Redis's driver, and the only file that imports it: one pipelined connection for every step.

Steps called in one event-loop turn, and those that gather while a round trip is under way, share the next round trip.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
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

from shared.backends.redis.connection.pipeline import ANSWER_TIMEOUT, Argument, Command, Gathering
from shared.errors import StoreUnavailable, sentence

LUA = Path(__file__).parents[1] / "lua"

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

PRELUDE = "prelude"
"""How the files begin that are no steps: what all steps share, and what those of one family do."""


def steps() -> Sequence[str]:
    """The names of all steps."""
    return [path.stem for path in LUA.glob("*.lua") if not path.stem.startswith(PRELUDE)]


KEPT, CLOSE = "prelude_kept", "prelude_close"
BESIDE: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("index", "discard", "retry", "reserve", "move_kept_bytes"), (KEPT,)),
    **dict.fromkeys(("finish", "end_unclaimed"), (KEPT, CLOSE)),
}
"""What some steps need beside that."""


class Script:
    """The source of one atomic step: the prelude of all steps, the prelude of its family (`fair_queue_…`, `limit_…`),
    further preludes that it needs (BESIDE), and the step's own file.

    Redis runs all of it at each call, so a step includes only what it needs.
    """

    def __init__(self, name: str) -> None:
        family = name.rpartition("_")[0]
        names = dict.fromkeys((PRELUDE, f"{PRELUDE}_{family}", *BESIDE.get(name, ()), name))
        parts = (LUA / f"{part}.lua" for part in names)
        self.source = "".join(part.read_text() for part in parts if part.exists())
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    return Script(name)


class LuaStep(NamedTuple):
    """One call of the script `name`; lua_steps.py has a function for each."""

    name: str
    keys: Sequence[str]
    arguments: tuple[Argument, ...]

    @property
    def command(self) -> Command:
        return ("EVALSHA", script(self.name).sha, len(self.keys), *self.keys, *self.arguments)


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


class Pipeline(ABC):
    """Commands and steps, as the ports give them: to one server, or to the nodes of a cluster."""

    spread: bool
    """Whether the keys are spread over nodes: then a step must name all its keys, and they must share a hash tag."""

    @abstractmethod
    def at(self, key: str) -> Gathering:
        """Where commands for this key go, at present."""

    @abstractmethod
    def command(
        self, *command: Argument, read: Callable[[Any], Any] | None = None, batchable: bool = False
    ) -> asyncio.Future[Any]:
        """As Gathering has it, for commands that name one key, or several with one hash tag."""

    def step(
        self,
        step: LuaStep,
        *,
        read: Callable[[Any], Any] | None = None,
        batchable: bool = False,
    ) -> asyncio.Future[Any]:
        """Runs a Lua step (lua_steps.py builds them)."""
        return self.command(*step.command, read=read, batchable=batchable)

    @abstractmethod
    async def probe(self) -> None:
        """Write something, so that a store that only answers is told from one that works. Raises StoreUnavailable."""

    @abstractmethod
    async def all_owners(self, *command: Argument) -> Sequence[Any]:
        """The answer of each server that has keys, or the error in its place."""

    @abstractmethod
    async def values(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Of any keys."""

    @abstractmethod
    async def count_subscribers(self, *channels: str) -> int:
        """How many subscriptions to these channels there are, or may be."""

    @abstractmethod
    async def have_subscribers(self, channels: Sequence[str]) -> Sequence[bool]:
        """Whether each of these channels has a subscription, or may have one."""

    @abstractmethod
    async def publish(self, channel: str, message: str) -> int:
        """How many heard it, or may have."""

    @abstractmethod
    async def stable_for(self) -> float:
        """Seconds since which whoever was connected to Redis has had no reason to lose that connection."""


class ServerPipeline(Gathering, Pipeline):
    """To one server."""

    spread = False

    def at(self, key: str) -> Gathering:
        return self

    async def probe(self) -> None:
        await self.command(*probe_of(PROBE))

    async def all_owners(self, *command: Argument) -> Sequence[Any]:
        return await asyncio.gather(self.command(*command), return_exceptions=True)

    async def values(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return await self.command("MGET", *keys)

    async def count_subscribers(self, *channels: str) -> int:
        return subscribers(await self.command("PUBSUB", "NUMSUB", *channels))

    async def have_subscribers(self, channels: Sequence[str]) -> Sequence[bool]:
        return subscribed(await self.command("PUBSUB", "NUMSUB", *channels))

    async def publish(self, channel: str, message: str) -> int:
        return await self.command("PUBLISH", channel, message)

    async def stable_for(self) -> float:
        return uptime(await self.command("INFO", "server"))


PROBE = "ignite:probe"
PROBE_KEPT = 60_000
"""Milliseconds."""


def probe_of(key: str) -> Command:
    return ("SET", key, 1, "PX", PROBE_KEPT)


def subscribed(numsub: Sequence[Any]) -> Sequence[bool]:
    return [count > 0 for count in numsub[1::2]]


def subscribers(numsub: Sequence[Any]) -> int:
    return sum(numsub[1::2])


def uptime(info: bytes) -> int:
    """Seconds, from INFO's answer."""
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return int(fields["uptime_in_seconds"])
