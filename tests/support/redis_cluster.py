"""A private Redis Cluster of primaries, each with a replica on demand."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.redis import SETTINGS, Redis
from tests.support.server import HostServer, accepts_connections, free_ports
from tests.support.wait_until import wait_until

SLOTS = 16384
BUS = 10_000
"""Added to a node's port, this is the port of the cluster bus."""

NODE_TIMEOUT = 2000
"""Milliseconds of silence after which a node counts as failed; Redis's default is 15 seconds."""


class Node(Redis):
    def __init__(self, launcher: str, directory: Path) -> None:
        directory.mkdir(parents=True)
        port = free_port_of_node()
        listen = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
        cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT)]
        super().__init__(HostServer([launcher, *SETTINGS, *listen, *cluster], directory), port)

    def ask(self, *command: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    @property
    def is_primary(self) -> bool:
        return self.ask("ROLE")[0] == "master"

    def has(self, slot: int) -> bool:
        myself = self.ask("CLUSTER MYID")
        served = self.ask("CLUSTER SLOTS")
        return any(first <= slot <= last and owner[2] == myself for first, last, owner, *_ in served)

    @property
    def is_whole(self) -> bool:
        """Whether the node says that every slot has an owner, and, if it is a replica, that it is in sync."""
        state = self.ask("CLUSTER INFO")["cluster_state"]
        kind, *more = self.ask("ROLE")
        return state == "ok" and (kind == "master" or more[2] == "connected")


class Move:
    """Moves a slot as `redis-cli --cluster reshard` does."""

    def __init__(self, slot: int, source: Node, target: Node) -> None:
        self._slot, self._source, self._target = slot, source, target

    def begin(self) -> None:
        self._target.ask("CLUSTER SETSLOT", self._slot, "IMPORTING", self._source.ask("CLUSTER MYID"))
        self._source.ask("CLUSTER SETSLOT", self._slot, "MIGRATING", self._target.ask("CLUSTER MYID"))

    def take(self, *keys: str) -> None:
        for key in keys:
            assert self._source.ask("MIGRATE", "127.0.0.1", self._target.port, key, 0, 5000) == "OK", key

    def take_all(self) -> None:
        self.take(*self._source.ask("CLUSTER GETKEYSINSLOT", self._slot, 1000))

    def end(self) -> None:
        for node in (self._target, self._source):
            node.ask("CLUSTER SETSLOT", self._slot, "NODE", self._target.ask("CLUSTER MYID"))


class RedisCluster:
    def __init__(self, launcher: str, directory: Path, *, primaries: int = 3, replicated: bool = False) -> None:
        count = primaries * (2 if replicated else 1)
        self.nodes = [Node(launcher, directory / str(number)) for number in range(count)]
        self._primaries, self._replicas = self.nodes[:primaries], self.nodes[primaries:]

    @property
    def url(self) -> str:
        """Returns the URLs of some nodes."""
        return ",".join(node.url() for node in self.nodes[:2])

    async def start(self) -> None:
        await asyncio.gather(*(node.start() for node in self.nodes))
        for number, node in enumerate(self._primaries):
            first, last = (SLOTS * each // len(self._primaries) for each in (number, number + 1))
            node.ask("CLUSTER ADDSLOTS", *range(first, last))
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER MEET", "127.0.0.1", node.port)
        await self._all(lambda node: len(node.ask("CLUSTER NODES")) == len(self.nodes), "to know each other")
        for replica, primary in zip(self._replicas, self._primaries, strict=False):
            replica.ask("CLUSTER REPLICATE", primary.ask("CLUSTER MYID"))
        await self.whole()

    async def whole(self) -> None:
        await self._all(lambda node: node.is_whole, "to have all slots")

    async def ensure_running(self) -> None:
        await asyncio.gather(*(node.ensure_running() for node in self.nodes))
        await self.whole()

    def forget(self) -> None:
        """Deletes all keys and all scripts."""
        for node in self.primaries():
            node.ask("FLUSHALL")
            node.ask("SCRIPT FLUSH")

    def move(self, key: str) -> "Move":
        """Moves the slot of the key to another node."""
        slot = self.nodes[0].ask("CLUSTER KEYSLOT", key)
        source, target = sorted(self.primaries(), key=lambda node: not node.has(slot))[:2]
        return Move(slot, source, target)

    def owner(self, key: str) -> Node:
        slot = self.nodes[0].ask("CLUSTER KEYSLOT", key)
        return next(node for node in self.primaries() if node.has(slot))

    def primaries(self) -> Sequence[Node]:
        return [node for node in self.running() if node.is_primary]

    def running(self) -> Sequence[Node]:
        return [node for node in self.nodes if node.is_running()]

    def keys_without_expiry(self) -> list[str]:
        return sorted(key for node in self.primaries() for key in Redis.keys_without_expiry(node, 0))

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self.nodes))

    async def _all(self, holds: Callable[[Node], bool], what: str) -> None:
        await wait_until(lambda: all(map(holds, self.running())), f"the cluster's nodes {what}")


def free_port_of_node() -> int:
    while True:
        (port,) = free_ports(1)
        if port + BUS < 32_000 and not accepts_connections(port + BUS):
            return port
