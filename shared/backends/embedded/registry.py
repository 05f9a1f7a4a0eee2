"""The embedded backend's registry: the workers of this process, and the recently announced models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace

import orjson

from shared.aio import run_and_discard
from shared.backends.announced import changed, decode_model
from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.transactions import Connection
from shared.errors import BackendUnavailable
from shared.ports import EngineState, Membership, ModelInfo, WorkerInfo, idle, unknown


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

    def __init__(
        self,
        worker: WorkerInfo,
        running: Callable[[], int],
        engine_state: Callable[[], EngineState | None],
        tell: Callable[[Sequence[ModelInfo]], asyncio.Future[None]],
    ) -> None:
        self.worker = worker
        self._running = running
        self._engine_state = engine_state
        self._tell = tell
        self.requests = StopRequests()

    @property
    def cancels(self) -> AsyncIterator[str]:
        return self.requests

    @property
    def now(self) -> WorkerInfo:
        return replace(self.worker, running=self._running(), engine_state=self._engine_state())

    def announce(self, *, ready: bool | None = None, models: Sequence[ModelInfo] = ()) -> None:
        before, self.worker = self.worker, changed(self.worker, ready, models)
        if models:
            self._tell((*before.models, *models)).add_done_callback(run_and_discard)


class EmbeddedRegistry:
    def __init__(self, database: Database, model_retention: float) -> None:
        self._database = database
        self._model_retention = model_retention
        self._workers: dict[str, Member] = {}

    @asynccontextmanager
    async def join(
        self,
        worker: WorkerInfo,
        running: Callable[[], int] = idle,
        engine_state: Callable[[], EngineState | None] = unknown,
    ) -> AsyncGenerator[Membership]:
        member = self._workers[worker.id] = Member(worker, running, engine_state, self._announce)
        try:
            with suppress(BackendUnavailable):  # The worker is known in memory; the row is for a later process.
                await self._announce(worker.models)
            yield member
        finally:
            del self._workers[worker.id]
            member.requests.put(None)
            # Not awaited: the worker leaves at once, even if the disk is slow.
            self._announce(member.worker.models).add_done_callback(run_and_discard)

    async def alive(self, worker_id: str) -> bool:
        return self.joined(worker_id)

    def joined(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def ask_to_stop(self, worker_id: str, job_id: str) -> None:
        if worker_id in self._workers:
            self._workers[worker_id].requests.put(job_id)

    async def workers(self) -> Sequence[WorkerInfo]:
        return [member.now for member in self._workers.values()]

    async def models(self) -> Sequence[ModelInfo]:
        since = time.time() - self._model_retention
        seen = {model.id: model for model in await self._database.run(lambda db: load_models(db, since))}
        for member in self._workers.values():
            seen |= {model.id: replace(model, seen_at=time.time()) for model in member.worker.models}
        return list(seen.values())

    def _announce(self, models: Sequence[ModelInfo]) -> asyncio.Future[None]:
        now = time.time()
        return self._database.run(lambda db: save_models(db, [replace(model, seen_at=now) for model in models]))


def save_models(db: Connection, models: Sequence[ModelInfo]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO models (id, seen_at, info) VALUES (?, ?, ?)",
        [(model.id, model.seen_at, orjson.dumps(asdict(model)).decode()) for model in models],
    )


def load_models(db: Connection, since: float) -> list[ModelInfo]:
    rows = db.execute("SELECT info FROM models WHERE seen_at > ? ORDER BY id", (since,))
    return [decode_model(orjson.loads(info)) for (info,) in rows]
