"""The servers of a campaign, and the proxies in front of them: one pair for the APIs, and one pair for each worker."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.tcp_proxy import TcpProxy


@dataclass
class Servers:
    rabbitmq: RabbitMQ
    redis: Redis
    vhost: str
    database: int


@dataclass
class Pair:
    amqp: TcpProxy
    redis: TcpProxy


@dataclass
class Wires:
    apis: Pair
    workers: Mapping[int, Pair]
    """The proxies by the number of the worker."""

    def all(self) -> Mapping[str, TcpProxy]:
        pairs = {"the APIs": self.apis} | {f"worker {number}": pair for number, pair in self.workers.items()}
        to_broker = {f"from {name} to the broker": pair.amqp for name, pair in pairs.items()}
        return to_broker | {f"from {name} to the store": pair.redis for name, pair in pairs.items()}


@asynccontextmanager
async def open_wires(servers: Servers, workers: int) -> AsyncGenerator[Wires]:
    async with AsyncExitStack() as stack:

        async def pair() -> Pair:
            ports = (servers.rabbitmq.amqp_port, servers.redis.port)
            return Pair(*[await stack.enter_async_context(TcpProxy(port)) for port in ports])

        yield Wires(await pair(), {number + 1: await pair() for number in range(workers)})
