"""Runs commands and Lua steps on one server. For a cluster, see cluster.py."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from shared.backends.redis.connection.gathering import Argument, Command, Gathering
from shared.backends.redis.connection.scripts import LuaStep


class Pipeline(ABC):
    """Runs commands and Lua steps on one server, or on the nodes of a cluster."""

    spread: bool
    """Whether keys are on several nodes. Then a step must name all its keys, and they must share a hash tag."""

    @abstractmethod
    def at(self, key: str) -> Gathering:
        """Returns the pipeline of the node that has this key at present."""

    def command(
        self, *command: Argument, read: Callable[[Any], Any] | None = None, batchable: bool = False
    ) -> asyncio.Future[Any]:
        """Sends a command that names one key, or several with one hash tag. See `Gathering.send`."""
        return self.at(str(command[1])).send(command, read=read, batchable=batchable)

    def step(
        self, step: LuaStep, *, read: Callable[[Any], Any] | None = None, batchable: bool = False
    ) -> asyncio.Future[Any]:
        """Runs a Lua step (lua_steps.py builds them)."""
        return self.at(step.keys[0]).send(step.command, read=read, batchable=batchable)

    @abstractmethod
    async def probe(self) -> None:
        """Writes a key, because a store that answers may still refuse writes. Raises StoreUnavailable."""

    @abstractmethod
    async def all_owners(self, *command: Argument) -> Sequence[Any]:
        """Returns the answer or error of each server that has keys."""

    @abstractmethod
    async def values(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Returns the values of keys, which need not share a hash tag."""

    @abstractmethod
    async def count_subscribers(self, *channels: str) -> int:
        """Returns how many subscriptions to these channels exist or may exist."""

    @abstractmethod
    async def have_subscribers(self, channels: Sequence[str]) -> Sequence[bool]:
        """Returns for each channel whether it has or may have a subscription."""

    @abstractmethod
    async def publish(self, channel: str, message: str) -> int:
        """Publishes a message, and returns how many subscribers received it or may have."""

    @abstractmethod
    async def stable_for(self) -> float:
        """Returns for how many seconds no restart or loss of a node has broken connections of other clients."""


class ServerPipeline(Gathering, Pipeline):
    """Runs commands and steps on one server."""

    spread = False

    def at(self, key: str) -> Gathering:
        return self

    async def probe(self) -> None:
        await self.send(probe_of(PROBE))

    async def all_owners(self, *command: Argument) -> Sequence[Any]:
        return await asyncio.gather(self.send(command), return_exceptions=True)

    async def values(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return await self.send(("MGET", *keys))

    async def count_subscribers(self, *channels: str) -> int:
        return subscribers(await self.send(("PUBSUB", "NUMSUB", *channels)))

    async def have_subscribers(self, channels: Sequence[str]) -> Sequence[bool]:
        return subscribed(await self.send(("PUBSUB", "NUMSUB", *channels)))

    async def publish(self, channel: str, message: str) -> int:
        return await self.send(("PUBLISH", channel, message))

    async def stable_for(self) -> float:
        return uptime(await self.send(("INFO", "server")))


PROBE = "ignite:probe"
PROBE_KEPT = 60_000
"""Milliseconds for which the key of a probe is kept."""


def probe_of(key: str) -> Command:
    return ("SET", key, 1, "PX", PROBE_KEPT)


def subscribed(numsub: Sequence[Any]) -> Sequence[bool]:
    return [count > 0 for count in numsub[1::2]]


def subscribers(numsub: Sequence[Any]) -> int:
    return sum(numsub[1::2])


def uptime(info: bytes) -> int:
    """Returns a server's uptime in seconds, from INFO's answer."""
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return int(fields["uptime_in_seconds"])
