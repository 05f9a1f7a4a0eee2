"""The embedded backend's registry: the workers of this process, and the recently announced models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace

import orjson

from shared.aio import run_and_discard
from shared.backends.announced import decode_model
from shared.backends.embedded.database.connection import Connection, Database
from shared.errors import BackendUnavailable
from shared.ports import Membership, ModelInfo, WorkerInfo, idle


class StopRequests:
    """The ids of jobs that a worker must stop. The iteration ends when the worker leaves."""

    def __init__(self) -> None:
        self._ids: asyncio.Queue[str | None] = asyncio.Queue()

    def put(self, job_id: str | None) -> None:
        self._ids.put_nowait(job_id)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        job_id = await self._ids.get()
        if job_id is None:
            self.put(None)  # A later call ends as well.
            raise StopAsyncIteration
        return job_id


class Member:
    """A worker in this process."""

    def __init__(self, worker: WorkerInfo, running: Callable[[], int]) -> None:
        self.worker = worker
        self.running = running
        self.requests = StopRequests()

    @property
    def cancels(self) -> AsyncIterator[str]:
        return self.requests

    def announce(self, *, ready: bool) -> None:
        self.worker = replace(self.worker, ready=ready)


class EmbeddedRegistry:
    def __init__(self, database: Database, model_retention: float) -> None:
        self._database = database
        self._model_retention = model_retention
        self._workers: dict[str, Member] = {}

    @asynccontextmanager
    async def join(self, worker: WorkerInfo, running: Callable[[], int] = idle) -> AsyncGenerator[Membership]:
        member = self._workers[worker.id] = Member(worker, running)
        try:
            with suppress(BackendUnavailable):  # The worker is known in memory; the row is for a later process.
                await self._announce(worker.model)
            yield member
        finally:
            del self._workers[worker.id]
            member.requests.put(None)
            # Not awaited: the worker leaves at once, even if the disk is slow.
            self._announce(worker.model).add_done_callback(run_and_discard)

    async def alive(self, worker_id: str) -> bool:
        return self.joined(worker_id)

    def joined(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def ask_to_stop(self, worker_id: str, job_id: str) -> None:
        if worker_id in self._workers:
            self._workers[worker_id].requests.put(job_id)

    async def workers(self) -> Sequence[WorkerInfo]:
        return [replace(member.worker, running=member.running()) for member in self._workers.values()]

    async def models(self) -> Sequence[ModelInfo]:
        since = time.time() - self._model_retention
        seen = {model.id: model for model in await self._database.run(lambda db: load_models(db, since))}
        for member in self._workers.values():
            seen[member.worker.model.id] = replace(member.worker.model, seen_at=time.time())
        return list(seen.values())

    def _announce(self, model: ModelInfo) -> asyncio.Future[None]:
        return self._database.run(lambda db: save_model(db, replace(model, seen_at=time.time())))


def save_model(db: Connection, model: ModelInfo) -> None:
    db.execute(
        "INSERT OR REPLACE INTO models (id, seen_at, info) VALUES (?, ?, ?)",
        (model.id, model.seen_at, orjson.dumps(asdict(model)).decode()),
    )


def load_models(db: Connection, since: float) -> list[ModelInfo]:
    rows = db.execute("SELECT info FROM models WHERE seen_at > ? ORDER BY id", (since,))
    return [decode_model(orjson.loads(info)) for (info,) in rows]
