"""API and worker processes over one RabbitMQ and one Redis."""

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.support import gated
from tests.support.rabbitmq import RabbitMQ
from tests.support.run_process import RunningProcess, run_ignite

API_READY = r"ignite api is ready: (http://\S+)/v1"
WORKER_READY = r"ignite worker is ready"
STARTS_WITHIN = 120.0


@dataclass(frozen=True)
class Api:
    process: RunningProcess
    url: str


class Cluster:
    """Starts processes, ends them on exit, and shows their output when the test fails. Simulated engines have gates."""

    def __init__(self, stack: AsyncExitStack, amqp_url: str, redis_url: str) -> None:
        self._stack = stack
        self._env = {"IGNITE_AMQP_URL": amqp_url, "IGNITE_REDIS_URL": redis_url}
        self.processes: list[RunningProcess] = []

    async def api(self, *options: str, **env: str) -> Api:
        keys = "IGNITE_API_KEYS" in env or "--api-keys" in options
        entry = {} if keys else {"IGNITE_NO_AUTH": "true"}
        process = await self._start("api", "--port", "0", *options, **entry, **env)
        found: re.Match[str] = await process.wait_for(API_READY, STARTS_WITHIN)
        return Api(process, found[1])

    async def worker(self, *options: str, **env: str) -> RunningProcess:
        process = await self._start("worker", "--engine", "simulated", *options, **env)
        await process.wait_for(WORKER_READY, STARTS_WITHIN)
        return process

    async def unready_worker(self, *options: str) -> RunningProcess:
        """Starts a worker without waiting until it is ready."""
        return await self._start("worker", *options)

    async def with_workers(self, count: int, *options: str) -> tuple[Api, list[RunningProcess]]:
        """Starts one API and some workers concurrently."""
        api, *workers = await asyncio.gather(self.api(), *(self.worker(*options) for _ in range(count)))
        return api, workers

    async def _start(self, *command: str, **env: str) -> RunningProcess:
        running = run_ignite(*command, env={**self._env, **env}, module=gated.MODULE)
        process = await self._stack.enter_async_context(running)
        self.processes.append(process)
        return process


@asynccontextmanager
async def running_cluster(amqp_url: str, redis_url: str) -> AsyncGenerator[Cluster]:
    async with AsyncExitStack() as stack:
        cluster = Cluster(stack, amqp_url, redis_url)
        try:
            yield cluster
        finally:
            for number, process in enumerate(cluster.processes):
                print(f"--- process {number} ---\n{process.output}", file=sys.stderr)


def all_settled(server: RabbitMQ, vhost: str) -> bool:
    """Whether no message waits and no delivery is unacknowledged."""
    queues = server.queues(vhost)
    return bool(queues) and all(queue.messages_ready == queue.messages_unacknowledged == 0 for queue in queues)
