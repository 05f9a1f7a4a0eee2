"""The embedded backend: one process and one SQLite file. Followers and consumers are woken inside the event loop."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile

from shared.backends.embedded.database import views
from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.jobs import drop_never_accepted
from shared.backends.embedded.database.purge import Purge
from shared.backends.embedded.database.schema import VERSION, migrate
from shared.backends.embedded.database.transactions import FULL, UNUSABLE, WRITES_RETRY, Connection
from shared.backends.embedded.documents import EmbeddedDocuments
from shared.backends.embedded.fair_queue import EmbeddedFairQueues
from shared.backends.embedded.limiter import EmbeddedLimiter
from shared.backends.embedded.log import EmbeddedLog
from shared.backends.embedded.outbox import EmbeddedOutbox
from shared.backends.embedded.queue import EmbeddedQueue
from shared.backends.embedded.registry import EmbeddedRegistry
from shared.backends.embedded.store import EmbeddedStore
from shared.backends.follower_hub import FollowerHub
from shared.errors import BackendUnavailable, DataDirectoryInUse, IgniteError, StoreFull, StoreUnavailable
from shared.job import Job, QueueName
from shared.private_files import close_to_others, private_directory, private_file
from shared.quota import usual_limit

DATABASE = "ignite.db"
CHECK_TIMEOUT = 5.0
LOW_SPACE = 16 * 1024 * 1024

LEAST_SPACE = 1024 * 1024
"""Bytes that must be free on the disk at the start: the tables of a new database, or the log of an old one."""


class EmbeddedBackend:
    name = "embedded"

    def __init__(
        self,
        path: Path | None,
        *,
        queue_limit: int,
        fair: bool,
        tombstone_retention: float,
        model_retention: float,
        tenant_limit: int | None,
    ) -> None:
        self._path = path
        self._inode: int | None = None
        self._hub = FollowerHub()
        self._database = Database(path, on_lost=self._stop)
        self._purge = Purge(self._database, tombstone_retention)
        self.queue = EmbeddedQueue(self._database, queue_limit)
        limit = usual_limit(None) if tenant_limit is None else tenant_limit
        self.log = EmbeddedLog(self._database, self._hub, limit)
        self.documents = EmbeddedDocuments(self._database)
        self.outbox = EmbeddedOutbox(self._database)
        self.limiter = EmbeddedLimiter()
        self.registry = EmbeddedRegistry(self._database, model_retention)
        self.scheduler = EmbeddedFairQueues(self._database, fair=fair)
        self.store = EmbeddedStore(
            self._database,
            self._hub,
            registry=self.registry,
            scheduler=self.scheduler,
            purge=self._purge,
            limiter=self.limiter,
            tenant_limit=limit,
        )

    async def open(self) -> None:
        """Raises BackendUnavailable."""
        await self._database.open(prepare)
        await self.queue.load()
        await self.scheduler.load()
        self._purge.start()
        if self._path is not None:
            self._inode = self._path.stat().st_ino

    async def orphans(self, queue: QueueName, waited: float) -> Sequence[Job]:
        now = time.time()
        return await self._database.run(lambda db: views.orphans(db, queue, now - waited, now=now))

    async def warnings(self, longest_job: float) -> Sequence[str]:
        del longest_job
        return ()

    async def check(self) -> Mapping[str, IgniteError | None]:
        return {"database": await self._check()}

    async def close(self) -> None:
        await self._database.close()
        self._stop()

    def _stop(self) -> None:
        """Wakes all waiting consumers and followers, because the database is closed or lost."""
        self._purge.close()
        self.queue.close()
        self._hub.distrust_all()

    async def _check(self) -> IgniteError | None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await self._database.run(touch)
        except BackendUnavailable as error:
            return error
        except TimeoutError:
            return StoreUnavailable("The store has not answered in time.", detail=f"the database {self._path}")
        return self._check_file(self._path) if self._path is not None else None

    def _check_file(self, path: Path) -> IgniteError | None:
        try:
            if path.stat().st_ino != self._inode:
                return StoreUnavailable(
                    UNUSABLE, detail=f"the database {path} was replaced while it was in use: restart Ignite"
                )
            disk = os.statvfs(path.parent)
        except OSError as error:
            return StoreUnavailable(UNUSABLE, detail=f"the database {path} does not exist any more: {error.strerror}")
        if disk.f_bavail * disk.f_frsize < LOW_SPACE:
            return StoreUnavailable("The disk of the store is nearly full.", detail=f"it contains {path}")
        return None


def prepare(db: Connection) -> None:
    migrate(db)
    drop_never_accepted(db)


def touch(db: Connection) -> None:
    """Writes to the database, so that a full or read-only disk is noticed."""
    db.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def sole_use(data_dir: Path) -> Generator[None]:
    """Locks the data directory: two processes on one database would not wake each other. The lock ends with the
    process.
    """
    try:
        make_private(data_dir)
        require_space(data_dir)
        descriptor = os.open(data_dir / "ignite.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unusable(data_dir, error) from error
    try:
        take_lock(descriptor, data_dir)
        yield
    finally:
        os.close(descriptor)


def make_private(data_dir: Path) -> None:
    """Restricts the data directory to its owner: it contains requests, answers and API keys."""
    private_directory(data_dir, lambda name: name.startswith("ignite.") or name == "files")
    private_file(data_dir / DATABASE)
    for name in ("ignite.lock", f"{DATABASE}-wal", f"{DATABASE}-shm"):
        close_to_others(data_dir / name)


def require_space(data_dir: Path) -> None:
    """Raises OSError if the disk, or the user's quota on it, has less room than LEAST_SPACE."""
    with TemporaryFile(dir=data_dir) as file:
        file.write(bytes(LEAST_SPACE))


def unusable(data_dir: Path, error: OSError) -> BackendUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(FULL, retry_after=WRITES_RETRY, detail=f"the data directory {data_dir}: {error.strerror}")
    return StoreUnavailable(UNUSABLE, detail=f"the data directory {data_dir} cannot be used: {error.strerror}")


def take_lock(descriptor: int, data_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 20).decode() or "unknown"
        raise DataDirectoryInUse(
            f"The data directory {data_dir} is in use by another Ignite (process {holder}):"
            " stop that process, or choose another directory."
        ) from error
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())


@asynccontextmanager
async def open_embedded(
    data_dir: Path | None,
    *,
    queue_limit: int = 10_000,
    fair: bool = True,
    tombstone_retention: float = 7 * 86400.0,
    model_retention: float = 86400.0,
    tenant_limit: int | None = None,
) -> AsyncGenerator[EmbeddedBackend]:
    """Opens the backend on `data_dir`, or in memory if None. `fair`: whether the tenants of a queue share its workers
    fairly; `tombstone_retention`: seconds for which the id of an expired job is kept; `model_retention`: seconds for
    which a model without workers is listed; `tenant_limit`: bytes that a tenant may keep in the store (None: the
    default, 0: unlimited). Raises BackendUnavailable (StoreFull without room on the disk), DataDirectoryInUse.
    """
    with sole_use(data_dir) if data_dir else nullcontext():
        backend = EmbeddedBackend(
            data_dir / DATABASE if data_dir else None,
            queue_limit=queue_limit,
            fair=fair,
            tombstone_retention=tombstone_retention,
            model_retention=model_retention,
            tenant_limit=tenant_limit,
        )
        try:
            await backend.open()
            yield backend
        finally:
            await backend.close()


@asynccontextmanager
async def open_embedded_documents(data_dir: Path) -> AsyncGenerator[EmbeddedDocuments]:
    """Opens the documents only. Another process may hold the directory's lock: documents need no wake-ups, and SQLite
    serializes the writes. Raises BackendUnavailable.
    """
    try:
        make_private(data_dir)
    except OSError as error:
        raise unusable(data_dir, error) from error
    database = Database(data_dir / DATABASE, on_lost=nothing)
    await database.open(migrate)
    try:
        yield EmbeddedDocuments(database)
    finally:
        await database.close()


def nothing() -> None:
    """Does nothing when the database is lost: the waiting calls fail, and there is nothing else to notify."""
