"""The registry on Redis. Each worker has a record, which its heartbeat renews, and a control channel, to which it is
subscribed while it lives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace

import orjson
import structlog

from shared.backends.announced import changed, decode_model, decode_worker
from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.presence import any_subscribed, subscribed_each
from shared.backends.redis.connection.server import Server
from shared.backends.redis.connection.subscription import listening
from shared.errors import BackendUnavailable
from shared.outages import Outage
from shared.ports import EngineState, Membership, ModelInfo, WorkerInfo, idle, unknown

log = structlog.get_logger(__name__)

HEARTBEAT = 5.0
WORKER_TTL = 3 * HEARTBEAT
MODEL_TTL = 86400.0
"""Seconds for which a model stays in the catalog after its last worker was seen, so that its jobs can wait."""


class RedisMembership:
    cancels: AsyncIterator[str]

    def __init__(
        self, worker: WorkerInfo, running: Callable[[], int], engine_state: Callable[[], EngineState | None]
    ) -> None:
        self.worker = worker
        self._running = running
        self._engine_state = engine_state
        self._news = asyncio.Event()

    def announce(self, *, ready: bool | None = None, models: Sequence[ModelInfo] = ()) -> None:
        self.worker = changed(self.worker, ready, models)
        self._news.set()

    @property
    def now(self) -> WorkerInfo:
        return replace(self.worker, running=self._running(), engine_state=self._engine_state())

    async def wait_news(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()


class RedisRegistry:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._redis = server.pipeline

    @asynccontextmanager
    async def join(
        self,
        worker: WorkerInfo,
        running: Callable[[], int] = idle,
        engine_state: Callable[[], EngineState | None] = unknown,
    ) -> AsyncGenerator[Membership]:
        requests: asyncio.Queue[str] = asyncio.Queue()
        channel = keys.worker_channel(worker.id)
        subscription = self._server.subscription(channel, lambda raw: requests.put_nowait(raw.decode()), nothing)
        async with listening(subscription) as control:
            await self._announce(worker)
            member = RedisMembership(worker, running, engine_state)
            heart = asyncio.create_task(self._beat(member), name="registry-heartbeat")
            member.cancels = stop_requests(requests, (heart, control.task))
            try:
                yield member
            finally:
                heart.cancel()
                await asyncio.gather(heart, return_exceptions=True)
                await self._leave(worker)

    async def _announce(self, worker: WorkerInfo) -> None:
        now = time.time()
        models = [replace(model, seen_at=now) for model in worker.models]
        named = [part for model in models for part in (model.id, orjson.dumps(asdict(model)))]
        seen = worker.serving(models)
        await asyncio.gather(
            self._redis.command(
                "SET", keys.worker(worker.id), orjson.dumps(asdict(seen)), "PX", int(WORKER_TTL * 1000)
            ),
            self._redis.step(
                lua_steps.index([keys.WORKERS], member=worker.id, score=now, ttl_ms=int(WORKER_TTL * 4000))
            ),
            self._redis.command("HSET", keys.MODELS, *named),
            self._redis.command("PEXPIRE", keys.MODELS, int(MODEL_TTL * 1000)),
        )

    async def _beat(self, member: RedisMembership) -> None:
        outage = Outage()
        while True:
            await member.wait_news(HEARTBEAT)
            try:
                await self._announce(member.now)
            except BackendUnavailable as error:
                if outage.begins():
                    log.warning("registry.heartbeat_missed", error=str(error), next="trying again")
            else:
                if (seconds := outage.ends()) is not None:
                    log.info("registry.heartbeat_back", after=seconds)

    async def _leave(self, worker: WorkerInfo) -> None:
        try:
            await asyncio.gather(
                self._redis.command("DEL", keys.worker(worker.id)),
                self._redis.command("ZREM", keys.WORKERS, worker.id),
            )
        except BackendUnavailable as error:
            log.warning("registry.leave_failed", error=str(error), next="the record expires by itself")

    async def alive(self, worker_id: str) -> bool:
        return await any_subscribed(self._redis, keys.worker_channel(worker_id))

    async def workers(self) -> Sequence[WorkerInfo]:
        since = time.time() - WORKER_TTL
        found: list[bytes] = await self._redis.command("ZRANGE", keys.WORKERS, since, "+inf", "BYSCORE")
        if not found:
            return []
        ids = [raw.decode() for raw in found]
        # A record outlives a worker that was killed; its subscription does not.
        records, subscribed = await asyncio.gather(
            self._redis.values([keys.worker(each) for each in ids]),
            subscribed_each(self._redis, [keys.worker_channel(each) for each in ids]),
        )
        there = [raw for raw, is_alive in zip(records, subscribed, strict=True) if raw and is_alive]
        return [decode_worker(orjson.loads(raw)) for raw in there]

    async def models(self) -> Sequence[ModelInfo]:
        raw = await self._redis.command("HVALS", keys.MODELS)
        known = [decode_model(orjson.loads(item)) for item in raw]
        return [model for model in known if model.seen_at > time.time() - MODEL_TTL]


def nothing() -> None:
    """Does nothing after a lost connection of the control channel: the log and the lease refuse a cancelled job
    anyway.
    """


async def stop_requests(requests: asyncio.Queue[str], watched: Sequence[asyncio.Task[None]]) -> AsyncIterator[str]:
    """Yields the ids of jobs to stop. Raises the error of a watched task that has died, because no requests arrive
    then.
    """
    while True:
        getting = asyncio.ensure_future(requests.get())
        try:
            await asyncio.wait([getting, *watched], return_when=asyncio.FIRST_COMPLETED)
            for task in watched:
                if task.done() and not task.cancelled():
                    task.result()
            if not getting.done():
                return
            yield getting.result()
        finally:
            getting.cancel()
