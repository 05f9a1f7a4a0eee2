"""The embedded backend alone: crashes, restarts, its files, and the purge."""

import asyncio
import json
import sqlite3
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.backends.embedded import consumer as embedded_consumer
from shared.backends.embedded import queue as embedded_queue
from shared.backends.embedded.backend import DataDirectoryInUse, open_embedded
from shared.backends.embedded.database import messages, purge
from shared.backends.embedded.database.log_rows import ROW_LIMIT
from shared.backends.embedded.database.transactions import Connection
from shared.backends.embedded.queue import RECENT
from shared.errors import BackendUnavailable
from shared.job import JobStatus
from shared.ports import Backend, Claim, JobFilter, Message, NotClaimed
from tests.contract.performers import (
    CANCELLED,
    COMPLETED,
    LEASE,
    PATIENCE,
    a_worker,
    consume,
    ended,
    message_for,
    new_job,
    next_of,
    nothing_comes,
    perform,
    publish,
    record_of,
    some_frames,
    started,
    submit,
    taken,
)
from tests.support.clock import Clock
from tests.support.wait_until import wait_until

DATABASE = "ignite.db"

# ── crashes ──

VICTIM = """
import asyncio, json, os, signal, sys
from pathlib import Path
from shared.backends.embedded.backend import open_embedded
from tests.contract.performers import *

async def live_and_die():
    async with open_embedded(Path(sys.argv[1])) as backend:
        over, _ = await ended(backend)
        queued, running = await submit(backend), await submit(backend)
        never_accepted = await created(backend)
        await backend.store.create(new_job(), body=b"never accepted either")
        async with backend.registry.join(a_worker("victim")), consume(backend) as consumer:
            await next_of(consumer)
            delivery = await next_of(consumer)
            claim = await claimed(backend, running, "victim")
            await write(backend, claim, some_frames(3))
            print(json.dumps([over.id, queued.id, running.id, never_accepted.id]), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(live_and_die())
"""


async def killed(data_dir: Path) -> list[str]:
    """The ids of a job that was over, one that waited, one that ran, and one that was never accepted."""
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, str(data_dir), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    out, _ = await asyncio.wait_for(victim.communicate(), 30)
    assert victim.returncode == -9
    return json.loads(out)


async def test_queued_and_running_jobs_survive_a_kill(tmp_path: Path) -> None:
    over, queued, running, never_accepted = await killed(tmp_path)
    async with open_embedded(tmp_path) as backend:
        assert (await record_of(backend, over)).status is JobStatus.COMPLETED
        assert await backend.store.get(never_accepted) is None
        assert len(await backend.store.list("tenant", JobFilter(), after=None, limit=10)) == 3
        async with consume(backend) as consumer:
            assert [(await next_of(consumer)).message.job.id for _ in range(2)] == [queued, running]
        assert isinstance(await backend.store.claim(queued, "worker-2", LEASE), Claim)
        refusal = await backend.store.claim(running, "worker-2", LEASE)
        assert refusal == NotClaimed(JobStatus.IN_PROGRESS, "victim")
        assert not await backend.registry.alive("victim")
        claim = await backend.store.claim(running, "worker-2", LEASE, lost="victim")
        assert isinstance(claim, Claim)
        assert (claim.attempt, claim.tries, claim.lost) == (2, 0, 0), "it had got on"
        log = b"".join(some_frames(3))
        assert await backend.log.read(running) == log
        assert await perform(backend, claim, []) == COMPLETED.frames
        assert await backend.log.read(running) == log + COMPLETED.frames


async def test_what_waits_for_a_time_still_does_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(embedded_queue, "time", SimpleNamespace(time=clock))
    expiring = new_job(deadline=0.2)
    began = clock.now = expiring.deadline_at - 0.2
    async with open_embedded(tmp_path) as backend, consume(backend) as consumer:
        late, *ids = await publish(backend, expiring, *(new_job() for _ in range(3)))
        deliveries = [await next_of(consumer) for _ in range(4)]
        for delivery, wish in zip(deliveries, (0.1, 600.0, 0.6, 0.0), strict=True):
            await delivery.retry(wish)
    clock.now = began + 0.3
    async with open_embedded(tmp_path) as backend, consume(backend) as consumer, backend.queue.dead_letters() as dead:
        assert await taken(consumer, 1) == [ids[2]]
        assert await taken(dead, 1) == [late]
        assert await nothing_comes(consumer)
        clock.now = began + 0.7
        assert await taken(consumer, 1) == [ids[1]]
        assert await nothing_comes(consumer)


async def test_a_dead_letter_survives_a_restart(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as backend, backend.queue.dead_letters() as dead:
        (job_id,) = await publish(backend, new_job(deadline=0.1))
        await next_of(dead)
    async with open_embedded(tmp_path) as backend, backend.queue.dead_letters() as dead:
        assert await taken(dead, 1) == [job_id]
    async with open_embedded(tmp_path) as backend, backend.queue.dead_letters() as dead:
        assert await nothing_comes(dead)


# ── the data directory ──


async def test_a_data_directory_is_made_and_used_by_one_process(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "b"
    async with open_embedded(data_dir):
        with pytest.raises(DataDirectoryInUse, match="in use by another Ignite"):
            async with open_embedded(data_dir):
                pass
    async with open_embedded(data_dir) as backend:
        assert await backend.check() == {"database": None}


async def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendUnavailable, match="cannot be used"):
        async with open_embedded(tmp_path / "file" / "data"):
            pass


async def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    async with open_embedded(tmp_path):
        pass
    query(tmp_path, "PRAGMA user_version = 99")
    with pytest.raises(BackendUnavailable, match="newer Ignite"):
        async with open_embedded(tmp_path):
            pass
    assert query(tmp_path, "PRAGMA user_version") == [(99,)]


async def test_a_database_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as backend:
        await submit(backend)
    for dropped in (
        "TRIGGER kept_by_new_job",
        "TRIGGER kept_by_job",
        "TRIGGER kept_no_more",
        "TABLE kept",
        "TABLE progress",
    ):
        query(tmp_path, f"DROP {dropped}")
    without_api(tmp_path)
    for column in ("own", "room", "kept", "made_with"):
        query(tmp_path, f"ALTER TABLE jobs DROP COLUMN {column}")
    query(tmp_path, "PRAGMA user_version = 8")
    async with open_embedded(tmp_path, tenant_limit=1_000_000) as backend:
        assert len(await backend.store.list("tenant", JobFilter(), after=None, limit=10)) == 1
        job, _ = await started(backend)
        await backend.store.delete(job)
        assert query(tmp_path, "SELECT bytes FROM kept") == [(0,)]


async def test_a_database_of_version_9_is_taken_over(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as backend:
        await submit(backend)
    without_api(tmp_path)
    query(tmp_path, "ALTER TABLE jobs DROP COLUMN made_with")
    query(tmp_path, "DROP TABLE progress")
    query(tmp_path, "PRAGMA user_version = 9")
    async with open_embedded(tmp_path) as backend:
        (job,) = await backend.store.list("tenant", JobFilter(), after=None, limit=10)
        assert job.made_with is None


async def test_a_database_of_version_10_is_taken_over(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as backend:
        job, _ = await started(backend)
    without_api(tmp_path)
    query(tmp_path, "DROP TABLE progress")
    query(tmp_path, "PRAGMA user_version = 10")
    async with open_embedded(tmp_path) as backend:
        assert await backend.log.read_progress(job.id) == b""


@pytest.mark.parametrize("version", [11, 12])
async def test_a_database_without_apis_is_taken_over(tmp_path: Path, version: int) -> None:
    async with open_embedded(tmp_path) as backend:
        await submit(backend)
    without_api(tmp_path, windows=version == 12)
    query(tmp_path, f"PRAGMA user_version = {version}")
    async with open_embedded(tmp_path) as backend:
        (job,) = await backend.store.list("tenant", JobFilter(), after=None, limit=10)
        assert (job.api, job.window_end) == ("chat", None)
        assert await backend.store.list("tenant", JobFilter(stored=True), after=None, limit=10) == []


def without_api(data_dir: Path, *, windows: bool = False) -> None:
    """As versions up to 12 were, or with `windows=False` those up to 11."""
    query(data_dir, "DROP INDEX jobs_stored")
    for column in ("api",) if windows else ("api", "window_end"):
        query(data_dir, f"ALTER TABLE jobs DROP COLUMN {column}")
    query(data_dir, "CREATE INDEX jobs_stored ON jobs (tenant, id) WHERE stored = 1")


async def test_a_check_notices_that_the_file_is_gone(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as backend:
        (tmp_path / DATABASE).unlink()
        complaint = (await backend.check())["database"]
        assert complaint is not None
        assert "does not exist any more" in str(complaint)
        assert str(tmp_path) not in complaint.message


async def test_a_closed_backend_says_so(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as backend:
        pass
    complaint = (await backend.check())["database"]
    assert complaint is not None and complaint.message == "The database is closed."


def query(data_dir: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(data_dir / DATABASE)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


# ── whoever waits hears of the end ──


async def test_closing_wakes_everyone_who_waits(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as backend:
        job, _ = await started(backend)
        async with backend.log.follow(job.id) as follower, consume(backend) as consumer:
            await follower.next(PATIENCE)
            waiting = [asyncio.create_task(follower.next()), asyncio.create_task(consumer.next())]
            await asyncio.wait(waiting, timeout=0.05)
            await backend.close()
            for each in waiting:
                with pytest.raises(BackendUnavailable):
                    await asyncio.wait_for(each, PATIENCE)


async def test_a_workers_requests_end_when_it_leaves() -> None:
    async with open_embedded(None) as backend:
        async with backend.registry.join(a_worker()) as member:
            pass
        assert [job_id async for job_id in member.cancels] == []


# ── the queue and the database ──


async def test_more_waits_than_is_kept_at_hand(tmp_path: Path) -> None:
    jobs = [new_job() for _ in range(RECENT + 20)]
    async with open_embedded(tmp_path) as backend:
        for job in jobs:
            await backend.queue.publish(message_for(job, job.id.encode()))
        async with consume(backend, prefetch=len(jobs)) as consumer:
            bodies = [(await next_of(consumer)).message.body for _ in jobs]
    assert bodies == [job.id.encode() for job in jobs]


async def test_a_consumer_outlasts_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = iter([True, True])

    def away(db: Connection, seq: int) -> Message | None:
        if next(fails, False):
            raise sqlite3.OperationalError("database is locked")
        return read(db, seq)

    read = messages.read
    monkeypatch.setattr(messages, "read", away)
    monkeypatch.setattr(embedded_consumer, "TRY_AGAIN", 0.01)
    jobs = [new_job() for _ in range(RECENT + 2)]
    async with open_embedded(None) as backend:
        await publish(backend, *jobs)
        async with consume(backend, prefetch=len(jobs)) as consumer:
            assert sorted(await taken(consumer, len(jobs))) == [job.id for job in jobs]


async def test_a_message_that_could_not_be_settled_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LookupError

    async with open_embedded(None) as backend, consume(backend) as consumer:
        (job_id,) = await publish(backend, new_job())
        delivery = await next_of(consumer)
        with monkeypatch.context() as patched:
            patched.setattr(messages, "remove", fail)
            with pytest.raises(LookupError):
                await delivery.ack()
        assert await taken(consumer, 1) == [job_id]
        assert await nothing_comes(consumer)


async def test_an_abandoned_ack_takes_place() -> None:
    async with open_embedded(None) as backend:
        await publish(backend, new_job())
        async with consume(backend) as consumer:
            acking = asyncio.create_task((await next_of(consumer)).ack())
            await asyncio.wait([acking], timeout=0)
            acking.cancel()
        async with consume(backend) as consumer:
            assert await nothing_comes(consumer)


async def test_a_bound_holds_however_many_come_at_once() -> None:
    async with open_embedded(None, queue_limit=10) as backend:
        outcomes = await asyncio.gather(
            *(backend.queue.publish(message_for(new_job())) for _ in range(30)), return_exceptions=True
        )
        assert outcomes.count(None) == 10


# ── the purge ──


async def test_a_log_has_no_large_rows(tmp_path: Path) -> None:
    """SQLite reads a row as a whole, also for a reader that gets it piece by piece."""
    async with open_embedded(tmp_path) as backend:
        job, claim = await started(backend)
        await backend.log.append(job.id, claim.attempt, 0, bytes(1_000_000))
    ((rows, largest, size),) = query(tmp_path, "SELECT count(*), max(length(data)), sum(length(data)) FROM log")
    assert (size, largest, rows) == (1_000_000, ROW_LIMIT, 31)


async def test_expired_jobs_are_removed_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "BATCH", 3)
    monkeypatch.setattr(purge, "PAUSE", 0.05)
    async with open_embedded(tmp_path) as backend:
        kept, _ = await ended(backend)
        gone = [(await ended(backend, retention=0.1))[0] for _ in range(10)]
        cancelled = new_job(retention=0.1)
        await backend.store.create(cancelled, body=b"body")
        await backend.store.cancel(cancelled.id, CANCELLED)
        await wait_until(lambda: query(tmp_path, "SELECT id FROM jobs") == [(kept.id,)])
        assert query(tmp_path, "SELECT count(DISTINCT job) FROM log") == [(1,)]
        assert query(tmp_path, "SELECT count(*) FROM bodies") == [(0,)]
        assert all([await backend.store.knew(job.tenant, job.id) for job in (*gone, kept)])


async def test_the_memory_of_expired_jobs_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "PAUSE", 0.05)
    async with open_embedded(None, tombstone_retention=0.1) as backend:
        job, _ = await ended(backend, retention=0.05)
        await wait_until(lambda: is_forgotten(backend, job.tenant, job.id))


async def is_forgotten(backend: Backend, tenant: str, job_id: str) -> bool:
    return not await backend.store.knew(tenant, job_id)


async def test_what_expired_while_nobody_ran_is_removed_at_the_start(tmp_path: Path) -> None:
    async with open_embedded(tmp_path) as backend:
        await ended(backend, retention=0.05)
        running = await submit(backend)
    gone_by = time.time() + 0.05
    await wait_until(lambda: time.time() > gone_by)
    async with open_embedded(tmp_path):
        await wait_until(lambda: query(tmp_path, "SELECT id FROM jobs") == [(running.id,)])


async def test_an_unserved_model_is_forgotten() -> None:
    async with open_embedded(None, model_retention=0.05) as backend:
        async with backend.registry.join(a_worker()):
            outlived = time.time() + 0.1
            await wait_until(lambda: time.time() > outlived)
            assert len(await backend.registry.models()) == 1
        await wait_until(lambda: no_models(backend))


async def no_models(backend: Backend) -> bool:
    return not await backend.registry.models()
