"""The only module that imports Redis's driver: a connection, and the translation of its errors."""

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
"""Errors of a broken connection. uvloop raises RuntimeError for a write to a closed one."""


pack = cast(Callable[[Command], bytes], hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

AWAY = {
    *("READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "BUSY", "NOREPLICAS"),
    *("NOAUTH", "NOPERM", "WRONGPASS"),
}
"""Error codes with which Redis says that it cannot serve at present, or refuses this user."""


SLOTS = REDIS_CLUSTER_HASH_SLOTS
"""Number of slots of a cluster; each slot is on one node."""

REFUSES_WRITES = {
    "OOM": "The store (Redis) is full and accepts no new data.",
    "MISCONF": "The store (Redis) cannot write to its disk and accepts no new data.",
    "READONLY": "The store (Redis) is read-only at present and accepts no new data.",
}
"""Messages for clients, by error code. Redis's own messages may contain addresses and scripts."""

WRITES_RETRY = 10.0
"""Seconds after which a client should try again, because these faults take time to repair."""


def unavailable(error: Exception) -> StoreUnavailable:
    if (refusal := REFUSES_WRITES.get(code_of(error))) is not None:
        return StoreUnavailable(refusal, retry_after=WRITES_RETRY, detail=sentence(error))
    return StoreUnavailable("The store (Redis) does not answer.", retry_after=2, detail=explained(error))


HANGS_UP = ("closed by server", "connection lost", "reset by peer", "broken pipe")
"""Parts of the driver's messages about a server that closes the connection before it answers."""


def explained(error: Exception) -> str:
    """Returns a message for operators that says what to check. The driver's message is included where it helps."""
    said = sentence(error)
    match error:
        case AuthenticationError():
            return f"it refuses the user or the password ({said})"
        case NoPermissionError():
            return f"the user lacks permissions that Ignite needs ({said})"
        case InvalidResponse():
            return "the server at this address is not Redis: check the port"
        case RedisTimeoutError():
            return f"{said} (check host and port, and whether the server uses TLS: redis: or rediss:)"
        case RedisConnectionError() if any(words in said.lower() for words in HANGS_UP):
            return f"{said} (the server is not Redis: check the port; or it requires TLS: rediss:)"
        case _:
            return said


class Wire:
    """One connection. It is opened when it is needed, and again after it broke."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            socket_connect_timeout=CONNECT_TIMEOUT,
            # One timer for a whole round trip, not one for each of its answers.
            socket_timeout=None,
            # The older protocol: the additions of the newer one cost time and are not used.
            protocol=2,
            # The caller decides whether to retry.
            retry=Retry(NoBackoff(), 0),
        )
        self._connection: AbstractConnection = self._pool.make_connection()

    async def send(self, *commands: Command) -> None:
        """Raises one of FAILURES."""
        if not self._connection.is_connected:
            await self._connection.connect()
        await self._connection.send_packed_command(b"".join(map(pack, commands)), check_health=False)

    async def receive(self) -> Any:
        """Returns the next answer, which may be an error. Waits without a timeout. Raises one of FAILURES."""
        try:
            return cast(Any, await self._connection.read_response(timeout=math.inf))
        except ResponseError as refusal:
            return refusal

    async def round_trip(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands and returns their answers. If the connection was broken, it tries once more over a new one;
        after a timeout it does not.
        """
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
    """Sends commands and Lua steps over one connection, and loads missing scripts."""

    def __init__(self, url: str) -> None:
        self._wire = Wire(url)

    async def exchange(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Returns one answer or error for each command. Raises StoreUnavailable."""
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
        """Loads scripts, which a new or restarted Redis does not have."""
        known = map(script, steps())
        await self._wire.round_trip([("SCRIPT", "LOAD", item.source) for item in known if item.sha in shas])

    async def close(self) -> None:
        await self._wire.close()


def is_away(answer: Any) -> bool:
    """Whether Redis cannot serve at present. Otherwise an error concerns only this command."""
    return code_of(answer) in AWAY


def code_of(answer: Any) -> str:
    """Returns the code of a Redis error; empty for other answers."""
    if not isinstance(answer, ResponseError):
        return ""
    # The driver removes the code from the messages of errors for which it has a class.
    return answer.status_code or str(answer).partition(" ")[0]


class Redirect(NamedTuple):
    """The node to which a cluster redirects a command, from now on or `once`. An empty host is that of the answering
    node.
    """

    host: str
    port: int
    once: bool


def redirect_of(answer: Any) -> Redirect | None:
    if not isinstance(answer, AskError):
        return None
    host, port = cast(tuple[str, int], answer.node_addr)  # pyright: ignore[reportUnknownMemberType]
    return Redirect(host, port, once=not isinstance(answer, MovedError))


def slot_of(key: str) -> int:
    """Returns the number of the key's slot."""
    return key_slot(key.encode())
