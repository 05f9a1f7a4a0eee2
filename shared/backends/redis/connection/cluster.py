"""Sends commands to the nodes of a Redis Cluster.

Each node has a connection and a pipeline of its own, so a node that does not answer delays only commands for its keys.
CLUSTER SLOTS says which node has which keys. It is read at the start, when a node does not answer, and when a node
answers that a key has moved. Such a command is sent again to the node that the answer names.

A cluster passes each message to all nodes, but each node knows only its own subscribers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import structlog

from shared.backends.redis.connection.driver import FAILURES, SLOTS, Redirect, Steps, Wire, redirect_of, slot_of
from shared.backends.redis.connection.gathering import Argument, Command, Gathering
from shared.backends.redis.connection.pipeline import PROBE, Pipeline, probe_of, subscribed, subscribers, uptime
from shared.errors import BackendUnavailable, StoreUnavailable

T = TypeVar("T")

log = structlog.get_logger(__name__)

LOOK_TIMEOUT = 1.0
"""Seconds that a node has to answer CLUSTER SLOTS, before the next node is asked."""

LOOK_EVERY = 0.1
"""Least seconds between two reads of CLUSTER SLOTS, because many commands may ask for one at the same time."""

REDIRECTS = 5
"""How often a command is redirected before the cluster counts as unavailable."""

PING_AFTER = 2.0
"""As for one server, but shorter, because a subscription can use another node."""

PROBES = 10_000
"""Most names that are tried to find a key on each node; enough for a node with few slots."""

NOTICED_WITHIN = 2 * PING_AFTER
"""Seconds within which a subscriber notices that its node has failed, even if the connection stays silent."""


class Address(NamedTuple):
    host: str
    port: int


class Map(NamedTuple):
    """Which node has which slots. `replicas`: nodes with copies; they may have subscribers."""

    owners: Mapping[range, Address]
    replicas: frozenset[Address]

    @property
    def everyone(self) -> frozenset[Address]:
        return self.replicas.union(self.owners.values())


def read_map(slots: Any, asked: Address) -> Map:
    """Decodes CLUSTER SLOTS. A node that does not know its own host omits it; then the `asked` host is used."""

    def address(node: Sequence[Any]) -> Address:
        host = (node[0] or b"").decode()
        return Address(asked.host if host in ("", "?") else host, node[1])

    return Map(
        {range(first, last + 1): address(nodes[0]) for first, last, *nodes in slots},
        frozenset(address(replica) for _, _, _, *replicas in slots for replica in replicas),
    )


def address_of(url: str) -> Address:
    parts = urlsplit(url)
    return Address(parts.hostname or "localhost", parts.port or 6379)


def url_at(url: str, address: Address) -> str:
    """Returns `url` with another host and port."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    host = f"[{address.host}]" if ":" in address.host else address.host
    return parts._replace(netloc=f"{user}{at}{host}:{address.port}").geturl()


class Node:
    def __init__(self, url: str, nodes: Nodes) -> None:
        self.url = url
        self.gathering = Gathering(self._exchange)
        self._nodes = nodes
        self._steps = Steps(url)
        self._left = False

    async def leave(self) -> None:
        """Closes the connection, because the node has left the cluster."""
        self._left = True
        await self._steps.close()

    async def close(self) -> None:
        await self.gathering.close()
        await self._steps.close()

    async def _exchange(self, commands: Sequence[Command]) -> Sequence[Any]:
        try:
            answers = list(await self._steps.exchange(commands))
        except BackendUnavailable:
            await self._nodes.look()
            raise
        finally:
            if self._left:
                await self._steps.close()
        await self._nodes.send_on(commands, answers, address_of(self.url))
        return answers


class Nodes:
    """All nodes of a cluster, and their slots. `seeds`: URLs of some nodes."""

    def __init__(self, seeds: Sequence[str]) -> None:
        self._seeds = seeds
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Node] = []
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._shrank_at = float("-inf")

    async def open(self) -> None:
        """Raises BackendUnavailable."""
        await self.look()
        if not self._owners:
            raise StoreUnavailable("No node of the store (Redis Cluster) reports its slots.", retry_after=2)

    def owner(self, key: str) -> Node:
        return self._owners[slot_of(key)]

    def owners(self) -> Iterable[Node]:
        return dict.fromkeys(self._owners)

    def probes(self) -> Iterable[tuple[Node, str]]:
        """Returns each node with slots, and the name of a key in one of its slots."""
        found: dict[Node, str] = {}
        wanted = len(set(self._owners))
        for number in range(PROBES):
            found.setdefault(self.owner(key := f"{PROBE}:{number}"), key)
            if len(found) == wanted:
                break
        return found.items()

    def everyone(self) -> Iterable[Node]:
        return self._nodes.values()

    def any_order(self) -> Sequence[str]:
        """Returns the URLs of the nodes with slots, in random order."""
        urls = [node.url for node in self.owners()]
        random.shuffle(urls)
        return urls

    @property
    def complete_for(self) -> float:
        """Seconds since a node was last found to have left."""
        return time.monotonic() - self._shrank_at

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self.everyone()))

    async def look(self) -> None:
        """Reads CLUSTER SLOTS from any node that answers, unless it was read a moment ago."""
        async with self._looking:
            if time.monotonic() - self._looked_at < LOOK_EVERY:
                return
            for url in [*self.any_order(), *self._seeds]:
                try:
                    await self._take(await ask_map(url))
                    break
                except FAILURES as error:
                    log.debug("redis.node_silent", node=address_of(url), error=str(error), next="asking another node")
            self._looked_at = time.monotonic()

    async def _take(self, found: Map) -> None:
        gone = [self._nodes.pop(address) for address in self._nodes.keys() - found.everyone]
        nodes = {address: self._node(address) for address in found.everyone}
        owners = {slot: nodes[owner] for slots, owner in found.owners.items() for slot in slots}
        anyone = next(iter(owners.values()))  # Every node refuses commands for slots without an owner.
        self._owners = [owners.get(slot, anyone) for slot in range(SLOTS)]
        if gone:
            self._shrank_at = time.monotonic()
            log.warning("redis.nodes_left", nodes=[address_of(node.url) for node in gone], next="using the other nodes")
        for node in gone:
            await node.leave()

    def _node(self, address: Address) -> Node:
        if address not in self._nodes:
            self._nodes[address] = Node(url_at(self._seeds[0], address), self)
        return self._nodes[address]

    async def send_on(self, commands: Sequence[Command], answers: list[Any], asked: Address) -> None:
        """Sends redirected commands to the nodes that the answers name, and replaces those answers."""
        for _ in range(REDIRECTS):
            elsewhere = redirects(answers)
            if not elsewhere:
                return
            for to, indexes in elsewhere.items():
                url = url_at(self._seeds[0], Address(to.host or asked.host, to.port))
                again = await exchange_at(url, [commands[index] for index in indexes], once=to.once)
                for index, answer in zip(indexes, again, strict=True):
                    answers[index] = answer
            await self.look()
        for index in chain.from_iterable(redirects(answers).values()):
            answers[index] = StoreUnavailable("The store (Redis Cluster) is moving its keys.", retry_after=2)


def redirects(answers: Sequence[Any]) -> Mapping[Redirect, list[int]]:
    """Returns the indexes of the redirected commands, by redirection."""
    found: defaultdict[Redirect, list[int]] = defaultdict(list)
    for index, answer in enumerate(answers):
        if (to := redirect_of(answer)) is not None:
            found[to].append(index)
    return found


async def ask_map(url: str) -> Map:
    """Raises one of FAILURES."""
    wire = Wire(url)
    try:
        async with asyncio.timeout(LOOK_TIMEOUT):
            (slots,) = await wire.round_trip([("CLUSTER", "SLOTS")])
    finally:
        await wire.close()
    if isinstance(slots, Exception):
        raise slots
    if not slots:
        raise OSError("no node has slots")
    return read_map(slots, address_of(url))


async def exchange_at(url: str, commands: Sequence[Command], *, once: bool) -> Sequence[Any]:
    """Sends commands over a connection of their own: the node's pipeline may be waiting for this redirect."""
    steps = Steps(url)
    try:
        if not once:
            return await steps.exchange(commands)
        answers = await steps.exchange([each for command in commands for each in (("ASKING",), command)])
        return answers[1::2]
    except BackendUnavailable as failure:
        return [failure] * len(commands)
    finally:
        await steps.close()


class ClusterPipeline(Pipeline):
    """Sends each command to the node that has its key, and some commands to all nodes."""

    spread = True

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def at(self, key: str) -> Gathering:
        return self._nodes.owner(key).gathering

    async def probe(self) -> None:
        """Writes a key on each node."""
        await asyncio.gather(*(node.gathering.send(probe_of(key)) for node, key in self._nodes.probes()))

    async def all_owners(self, *command: Argument) -> Sequence[Any]:
        asked = (node.gathering.send(command) for node in self._nodes.owners())
        return await asyncio.gather(*asked, return_exceptions=True)

    async def values(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return await asyncio.gather(*(self.command("GET", key) for key in keys))

    async def count_subscribers(self, *channels: str) -> int:
        """Counts a node that does not answer as one subscriber, because it may have some."""
        counts = await self._everyone("PUBSUB", "NUMSUB", *channels, read=subscribers)
        return sum(1 if isinstance(count, BaseException) else count for count in counts)

    async def have_subscribers(self, channels: Sequence[str]) -> Sequence[bool]:
        """If a node does not answer, all channels count as subscribed, because it may have their subscribers."""
        nodes = await self._everyone("PUBSUB", "NUMSUB", *channels, read=subscribed)
        told = [node for node in nodes if not isinstance(node, BaseException)]
        if len(told) < len(nodes):
            return [True] * len(channels)
        return [any(each) for each in zip(*told, strict=True)]

    async def publish(self, channel: str, message: str) -> int:
        await self.command("PUBLISH", channel, message)
        return await self.count_subscribers(channel)

    async def stable_for(self) -> float:
        """Subscribers of a node that has left or was restarted need a moment to subscribe elsewhere."""
        uptimes = await self._everyone("INFO", "server", read=uptime)
        known = [each for each in uptimes if not isinstance(each, BaseException)]
        return min([*known, self._nodes.complete_for - NOTICED_WITHIN])

    async def _everyone(self, *command: Argument, read: Callable[[Any], T]) -> Sequence[T | BaseException]:
        asked = (node.gathering.send(command, read=read) for node in self._nodes.everyone())
        return await asyncio.gather(*asked, return_exceptions=True)
