"""Commands and Lua steps, as the ports give them, to one server. To a cluster: see cluster.py."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from shared.backends.redis.connection.gathering import Argument, Command, Gathering
from shared.backends.redis.connection.scripts import LuaStep


class Pipeline(ABC):
    """Commands and steps, as the ports give them: to one server, or to the nodes of a cluster."""

    spread: bool
    """Whether the keys are spread over nodes: then a step must name all its keys, and they must share a hash tag."""

    @abstractmethod
    def at(self, key: str) -> Gathering:
        """Where commands for this key go, at present."""

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
