"""Opens Redis: one server, or a cluster. The server's INFO says which of the two it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shared.backends.redis.connection.cluster import PING_AFTER, ClusterPipeline, Nodes
from shared.backends.redis.connection.driver import FAILURES, Steps, Wire, unavailable
from shared.backends.redis.connection.pipeline import Pipeline, ServerPipeline
from shared.backends.redis.connection.subscription import Subscription
from shared.errors import BackendUnavailable
from shared.settings import SettingsError, split_list

Receive = Callable[[bytes], None]
Broken = Callable[[], None]


class Server(Protocol):
    """A Redis server or cluster: commands go through the pipeline, messages come through subscriptions."""

    @property
    def pipeline(self) -> Pipeline: ...

    def subscription(self, channel: str, receive: Receive, broken: Broken) -> Subscription: ...

    async def close(self) -> None: ...


class RedisServer:
    def __init__(self, url: str) -> None:
        self._url = url
        self._steps = Steps(url)
        self.pipeline = ServerPipeline(self._steps.exchange)

    def subscription(self, channel: str, receive: Receive, broken: Broken) -> Subscription:
        return Subscription(lambda: [Wire(self._url)], channel, receive, broken=broken)

    async def close(self) -> None:
        await self.pipeline.close()
        await self._steps.close()


class RedisCluster:
    """A Redis Cluster. Each node receives all messages, so a subscription may use any node."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.pipeline = ClusterPipeline(nodes)

    def subscription(self, channel: str, receive: Receive, broken: Broken) -> Subscription:
        return Subscription(
            lambda: [Wire(url) for url in self._nodes.any_order()],
            channel,
            receive,
            broken=broken,
            ping_after=PING_AFTER,
        )

    async def close(self) -> None:
        await self._nodes.close()


async def open_server(urls: str) -> Server:
    """Connects to Redis. `urls`: one server, or some nodes of a cluster, separated by commas. Raises
    BackendUnavailable, and SettingsError if there are several URLs and the servers are not a cluster.
    """
    seeds = split_list(urls)
    if await is_cluster(seeds):
        nodes = Nodes(seeds)
        await nodes.open()
        return RedisCluster(nodes)
    if len(seeds) > 1:
        raise SettingsError("The setting redis_url names several servers, but they are not a Redis Cluster.")
    return RedisServer(seeds[0])


async def is_cluster(seeds: list[str]) -> bool:
    """Asks the first server that answers. Raises BackendUnavailable."""
    failure: BackendUnavailable | None = None
    for url in seeds:
        wire = Wire(url)
        try:
            (info,) = await wire.round_trip([("INFO", "cluster")])
            if isinstance(info, Exception):
                raise info
            return b"cluster_enabled:1" in info
        except FAILURES as error:
            failure = unavailable(error)
        finally:
            await wire.close()
    assert failure is not None
    raise failure
