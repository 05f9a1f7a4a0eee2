"""JobStore, what clients keep and throw away: stored jobs in lists of their own, other metadata, deletion."""

import time

import pytest
from redis import Redis

from shared.job import Job, JobStatus, QueueName, Tier, new_job_id
from shared.ports import AttemptFenced, Backend, JobFilter, NotClaimed
from tests.contract.performers import (
    A_MOMENT,
    COMPLETED,
    LEASE,
    created,
    ended,
    new_job,
    perform,
    record_of,
    some_frames,
    started,
    write,
)
from tests.support.wait_until import wait_until

STORED = JobFilter(JobStatus.COMPLETED, stored=True)


async def ids_of(backend: Backend, where: JobFilter = STORED, after: str | None = None, limit: int = 100) -> list[str]:
    jobs = await backend.store.list("tenant", where, after=after, limit=limit, oldest_first=True)
    return [job.id for job in jobs]


async def stored(backend: Backend, **wishes: object) -> Job:
    job, _ = await ended(backend, frames=1, stored=True, detached=True, **wishes)
    return job


async def test_stored_jobs_are_listed_apart(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    first = await stored(one)
    await ended(one)
    waiting = await created(one, stored=True)
    second = await stored(one)
    await stored(one, tenant="someone else")
    assert await ids_of(other) == [first.id, second.id]
    assert await ids_of(other, JobFilter(stored=True)) == [first.id, waiting.id, second.id]


async def test_a_response_is_kept_and_is_no_stored_completion(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    response, _ = await ended(one, frames=1, stored=True, api="responses", metadata={"colour": "red"})
    unstored, _ = await ended(one, frames=1, api="responses")
    found = await other.store.get(response.id)
    assert found is not None and found.api == "responses"
    assert await other.store.body(response.id) is not None
    assert await other.store.body(unstored.id) is None
    assert await ids_of(other, JobFilter(stored=True)) == []
    assert await ids_of(other, JobFilter(stored=True, metadata={"colour": "red"})) == []
    assert await ids_of(other, JobFilter(metadata={"colour": "red"})) == [response.id]


async def test_a_list_goes_either_way(backend: Backend) -> None:
    ids = [(await stored(backend)).id for _ in range(5)]
    assert await ids_of(backend, limit=2) == ids[:2]
    assert await ids_of(backend, after=ids[1], limit=2) == ids[2:4]
    assert await ids_of(backend, after=ids[3], limit=2) == ids[4:]
    assert await ids_of(backend, after=ids[4]) == []
    newest_first = await backend.store.list("tenant", STORED, after=ids[3], limit=2)
    assert [job.id for job in newest_first] == [ids[2], ids[1]]


async def test_stored_jobs_are_filtered(backend: Backend) -> None:
    red = await stored(backend, metadata={"colour": "red"})
    blue = await stored(backend, metadata={"colour": "blue"}, queue=QueueName("other-model", Tier.DEFAULT))
    assert await ids_of(backend, JobFilter(stored=True, metadata={"colour": "blue"})) == [blue.id]
    assert await ids_of(backend, JobFilter(stored=True, model="house-model")) == [red.id]


async def test_a_filter_that_lets_few_pass_finds_them_all(backend: Backend) -> None:
    wanted = [0, 1, 7, 30, 31, 59]
    ids = [(await stored(backend, metadata={"wanted": str(number in wanted)})).id for number in range(60)]
    where = JobFilter(stored=True, metadata={"wanted": "True"})
    assert await ids_of(backend, where, limit=2) == [ids[0], ids[1]]
    assert await ids_of(backend, where, after=ids[1], limit=4) == [ids[7], ids[30], ids[31], ids[59]]


@pytest.mark.parametrize("kind", ["distributed"], indirect=True)
async def test_a_list_of_stored_jobs_reads_no_others(backend: Backend, redis_url: str) -> None:
    """Redis counts the calls: what is listed costs what is stored."""
    job = await stored(backend)
    for _ in range(50):
        await created(backend)
    with Redis.from_url(redis_url) as client:
        client.config_resetstat()
        assert await ids_of(backend) == [job.id]
        calls = client.info("commandstats")
    assert calls["cmdstat_hgetall"]["calls"] == 1


# ── metadata ──


async def test_metadata_is_replaced(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = await stored(one, metadata={"colour": "red", "size": "l"})
    assert await one.store.describe(job.id, {"ключ": "значение"})
    assert (await record_of(other, job.id)).metadata == {"ключ": "значение"}
    assert await ids_of(other, JobFilter(stored=True, metadata={"colour": "red"})) == []
    assert await ids_of(other, JobFilter(stored=True, metadata={"ключ": "значение"})) == [job.id]
    assert await one.store.describe(job.id, {})
    assert (await record_of(other, job.id)).metadata == {}


async def test_what_is_not_there_cannot_be_described(backend: Backend) -> None:
    assert not await backend.store.describe(new_job_id(), {"a": "b"})
    job, _ = await ended(backend, retention=A_MOMENT)
    outlived = time.time() + 2 * A_MOMENT
    await wait_until(lambda: time.time() > outlived)
    assert not await backend.store.describe(job.id, {"a": "b"})
    assert await backend.store.get(job.id) is None


# ── deletion ──


async def test_a_deleted_job_was_never_there(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = await stored(one)
    await one.store.delete(job)
    assert await other.store.get(job.id) is None
    assert not await other.store.knew(job.tenant, job.id)
    assert await other.store.body(job.id) is None
    assert await other.log.read(job.id) == b""
    assert await ids_of(other) == []
    assert await other.store.list("tenant", JobFilter(), after=None, limit=10) == []
    await one.store.delete(job)


async def test_the_message_of_a_deleted_job_finds_nothing_to_run(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job = await created(one)
    await one.store.delete(job)
    assert await other.store.claim(job.id, "worker-1", LEASE) == NotClaimed(None)
    assert not await other.store.restore(job, body=b"{}")
    assert await other.store.claim(job.id, "worker-1", LEASE) == NotClaimed(None)
    assert await other.scheduler.position(job) is None


async def test_who_runs_a_deleted_job_is_fenced(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    job, claim = await started(one)
    size = await write(one, claim, some_frames(2))
    await other.store.delete(job)
    with pytest.raises(AttemptFenced):
        await one.log.append(job.id, claim.attempt, size, b"data: 1\n\n")
    with pytest.raises(AttemptFenced):
        await one.store.renew(job.id, claim.attempt, LEASE)
    with pytest.raises(AttemptFenced):
        await perform(one, claim, [], COMPLETED)
    assert await other.store.get(job.id) is None


async def test_a_job_whose_deadline_has_passed_is_deleted_all_the_same(backend: Backend) -> None:
    job = new_job(deadline=-1)
    await backend.store.create(job, body=b"{}")
    await backend.store.delete(job)
    assert await backend.store.get(job.id) is None
