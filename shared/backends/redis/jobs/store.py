"""The job store on Redis. Each change is one Lua step (lua/); the statuses that it allows come from the table in
job.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import orjson

from shared.backends.ending import encode_ending
from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.fair_queue import RedisFairQueue
from shared.backends.redis.jobs.endings import Endings
from shared.backends.redis.jobs.idempotency import KeyedJobs
from shared.backends.redis.jobs.lists import UNWELL, among_indexes, list_jobs, source_of
from shared.backends.redis.jobs.metadata_index import PairIndex
from shared.backends.redis.jobs.reattach import reattach_newest, remember_sent
from shared.backends.redis.jobs.records import MEMORY_OF_IDS, decode_job, milliseconds, oldest_kept, time_to_live
from shared.backends.redis.outbox import await_ending
from shared.backends.redis.refusals import raise_if_refused, status_of
from shared.backends.redis.storage_quota import KeptBytes, Opening
from shared.backends.spec import encode_spec
from shared.errors import AttemptsExhausted, IdempotencyKeyReused, StorageQuotaExceeded, StoreUnavailable
from shared.frames import count_frames
from shared.job import ENDINGS, Job, JobEvent, JobStatus, sources
from shared.ports import Claim, Ending, JobFilter, NotClaimed
from shared.quota import LOG_ROOM

NOTE_QUEUE_EVERY = 60.0

ASK_FIRST = 64 * 1024
"""Bytes of a request from which the quota is checked before the request is written."""


def listed(statuses: Iterable[JobStatus]) -> str:
    return ",".join(statuses)


CLAIMABLE = listed(sources(JobEvent.CLAIM))
RELEASABLE = listed(sources(JobEvent.RELEASE))
CANCELLABLE = listed(sources(JobEvent.CANCEL))
RETRIABLE = listed(sources(JobEvent.RETRY))
OPEN = listed(status for status in JobStatus if not status.terminal)


def indexes_of(job: Job) -> Sequence[str]:
    """Returns the tenant's indexes that contain the job."""
    always = (keys.jobs_of(job.tenant), keys.model_of(job.tenant, job.model))
    return (*always, keys.stored_of(job.tenant)) if job.stored_completion else always


def endable(status: JobStatus) -> str:
    """Returns the statuses from which a job may end in `status`."""
    return listed(sources(ENDINGS[status]))


class RedisStore:
    def __init__(self, pipeline: Pipeline, replica: str, *, scheduler: RedisFairQueue, kept: KeptBytes) -> None:
        self._redis = pipeline
        self._keyed = KeyedJobs(pipeline)
        self._replica = replica
        self._scheduler = scheduler
        self._pairs = PairIndex(pipeline)
        self._endings = Endings(pipeline, scheduler, kept)
        self._noted: dict[str, float] = {}
        self._kept = kept

    async def create(self, job: Job, *, body: bytes, followed: bool = False, sent: str | None = None) -> str:
        follower = self._replica if followed else ""
        if (key := job.idempotency_key) is None:
            await self._create(job, body, follower=follower, sent=sent)
            return job.id
        holder = await self._keyed.claim(job, key)
        if holder != job.id or await self._create(job, body, follower=follower):
            return holder
        await self.delete(job)  # Another request took this process for dead, and wrote a tombstone for the id.
        if (holder := await self._keyed.claim(job, key)) == job.id:
            raise StoreUnavailable("The store (Redis) was too slow for this request.", retry_after=1)
        return holder

    async def reattach(self, tenant: str, sent: str) -> str | None:
        return await reattach_newest(self._redis, tenant, sent)

    async def _create(
        self, job: Job, body: bytes, *, follower: str = "", restored: bool = False, sent: str | None = None
    ) -> bool:
        """Writes a job's record and adds it to its indexes. If the quota is used up, everything is removed again; a
        large request is not written at all.
        """
        ttl, spec = time_to_live(job, job.deadline_at), encode_spec(job)
        opening = Opening.of(job, spec, body, ttl)
        counting = self._count(job, opening, ttl, limited=not restored)
        if len(body) > ASK_FIRST:
            self._kept.check(await counting)
        made, counted, *_ = await asyncio.gather(
            self._redis.step(
                lua_steps.create(
                    job.id,
                    spec=spec,
                    mode=job.mode,
                    retention=job.retention,
                    deadline_at=job.deadline_at,
                    ttl_ms=ttl,
                    follower=follower,
                    body=body,
                    queue=str(job.queue),
                    created_at=job.created_at,
                    detached=job.detached,
                    keeps_request=job.keeps_request,
                    restored=restored,
                    webhook=job.webhook_url is not None,
                    limit_key=job.limit_key or "",
                    kept=self._kept.of_record(opening),
                )
            ),
            counting,
            self._scheduler.add(job, job.created_at, ttl),
            *self._note_queue(str(job.queue), ttl),
            *self._pairs.add(job, job.metadata, ttl),
            *([await_ending(self._redis, job, ttl)] if job.webhook_url else []),
            *([remember_sent(self._redis, job, sent, ttl=ttl)] if sent else []),
        )
        try:
            self._kept.check(counted)
        except StorageQuotaExceeded:
            await self._forget(job, self._redis.command("DEL", *keys.of_job(job.id)))
            raise
        return bool(made)

    def _count(self, job: Job, opening: Opening, ttl: int, *, limited: bool) -> asyncio.Future[Any]:
        """Adds the job to its tenant's indexes and counts its bytes, in one step."""
        names = (*indexes_of(job), opening.account)
        lasts = milliseconds(MEMORY_OF_IDS) + ttl
        counted = self._kept.of_index(opening, limited=limited)
        step = lua_steps.index(names, member=job.id, score=0, ttl_ms=lasts, oldest=oldest_kept(job), counted=counted)
        return self._redis.step(step)

    def _remember(self, indexes: Sequence[str], job: Job, ttl: int) -> asyncio.Future[Any]:
        lasts = milliseconds(MEMORY_OF_IDS) + ttl
        step = lua_steps.index(indexes, member=job.id, score=0, ttl_ms=lasts, oldest=oldest_kept(job))
        return self._redis.step(step)

    def _note_queue(self, queue: str, ttl: int) -> Sequence[asyncio.Future[Any]]:
        """Adds the queue's name to the index of queues, repeatedly, because the store may have lost it."""
        now = time.monotonic()
        if now - self._noted.get(queue, float("-inf")) < NOTE_QUEUE_EVERY:
            return ()
        self._noted[queue] = now
        lasts = milliseconds(MEMORY_OF_IDS) + ttl
        return (self._redis.step(lua_steps.index([keys.QUEUES], member=queue, score=0, ttl_ms=lasts)),)

    async def discard(self, job: Job, *, may_come: bool = False) -> None:
        left = milliseconds(job.deadline_at - time.time()) if may_come else None
        await self._forget(
            job, self._redis.step(lua_steps.discard(job.id, tombstone_ms=left), read=self._kept.apply_move)
        )

    async def _forget(self, job: Job, removal: asyncio.Future[Any]) -> None:
        self._scheduler.remove(str(job.queue), job.id)
        await asyncio.gather(
            removal,
            *(self._redis.command("ZREM", index, job.id) for index in indexes_of(job)),
            *self._pairs.forget(job),
        )

    async def delete(self, job: Job) -> None:
        await self.discard(job, may_come=True)
        if job.limit_key is not None:
            self._endings.charge_limit(job.limit_key, job.id, None)

    async def restore(self, job: Job, *, body: bytes | None) -> bool:
        """If the store has lost a job's record, it has lost the id in the tenant's index as well. The id of a discarded
        or deleted job is not in the index either, but has a tombstone.
        """
        if await self._redis.command("EXISTS", keys.job(job.id)) or await self.knew(job.tenant, job.id):
            return False
        if job.idempotency_key is not None:
            with suppress(IdempotencyKeyReused):
                await self._keyed.claim(job, job.idempotency_key)
        return await self._create(job, body or b"", restored=True)

    async def claim(
        self, job_id: str, owner: str, lease: float, *, lost: str | None = None, with_body: bool = False
    ) -> Claim | NotClaimed:
        answer = await self._redis.step(
            lua_steps.claim(
                job_id,
                worker=owner,
                lease_seconds=lease,
                lost_owner=lost or "",
                claimable=CLAIMABLE,
                with_body=with_body,
            )
        )
        if answer[0] == b"no":
            _, status, holder, cancelling = answer
            return NotClaimed(status_of(status), owner=holder.decode() or None, cancelling=bool(cancelling))
        _, attempt, tries, losses, offset, queue, body = answer
        self._scheduler.start(queue.decode(), job_id)
        return Claim(job_id, attempt=attempt, tries=tries, lost=losses, offset=offset, body=body)

    async def renew(self, job_id: str, attempt: int, lease: float) -> None:
        raise_if_refused(await self._redis.step(lua_steps.renew(job_id, attempt=attempt, lease_seconds=lease)))

    async def release(self, job_id: str, attempt: int, *, counted: bool, after: float = 0.0) -> None:
        answer = await self._redis.step(
            lua_steps.release(job_id, attempt=attempt, counted=counted, releasable=RELEASABLE, delay=after)
        )
        raise_if_refused(answer)
        _, queue, raw_position = answer
        position = float(raw_position)
        await self._scheduler.requeue(queue.decode(), job_id, position=position, due_at=position if after > 0 else 0)

    async def _list_unwell(self, job_id: str, status: JobStatus) -> None:
        """Adds the job to the index of its final status, before the step that ends it. Readers drop jobs in the index
        that have another status.
        """
        if status in UNWELL and (job := await self.get(job_id)) is not None:
            await self._remember([keys.ended_of(job.tenant, status)], job, time_to_live(job, job.deadline_at))

    async def finish(self, job_id: str, attempt: int, offset: int, ending: Ending) -> None:
        await self._list_unwell(job_id, ending.status)
        answer = await self._redis.step(
            lua_steps.finish(
                job_id,
                attempt=attempt,
                offset=offset,
                frames=ending.frames,
                frame_count=count_frames(ending.frames),
                new_status=ending.status,
                header=encode_ending(ending),
                result=ending.result or b"",
                endable=endable(ending.status),
            )
        )
        raise_if_refused(answer)
        self._endings.apply(job_id, answer[1:], ending)

    async def end_unclaimed(self, job_id: str, ending: Ending, *, owner: str | None = None) -> bool:
        await self._list_unwell(job_id, ending.status)
        answer = await self._redis.step(
            lua_steps.end_unclaimed(
                job_id,
                dead_owner=owner or "",
                frames=ending.frames,
                frame_count=count_frames(ending.frames),
                new_status=ending.status,
                header=encode_ending(ending),
                endable=endable(ending.status),
            )
        )
        self._endings.apply(job_id, answer, ending)
        return bool(answer[0])

    async def cancel(self, job_id: str, ending: Ending) -> None:
        while True:  # Repeated if the job is claimed between two of these steps.
            status, raw_owner = await self._redis.step(lua_steps.cancel(job_id, cancellable=CANCELLABLE))
            if not status or JobStatus(status.decode()).terminal:
                return
            owner = raw_owner.decode()
            if owner and await self._redis.publish(keys.worker_channel(owner), job_id):
                return
            if await self.end_unclaimed(job_id, ending, owner=owner):
                return

    async def retry(self, job_id: str, deadline_at: float) -> bool:
        if (job := await self.get(job_id)) is None:
            return False
        now, ttl = time.time(), time_to_live(job, deadline_at)
        # Fair queue and outbox first: if this process dies before the last step, the job is found there.
        if job.webhook_url is not None:
            await await_ending(self._redis, job, ttl)
        await self._scheduler.add(job, now, ttl)
        queue, moved = await self._redis.step(
            lua_steps.retry(
                job_id, deadline_at=deadline_at, ttl_ms=ttl, queued_at=now, retriable=RETRIABLE, room=LOG_ROOM
            )
        )
        self._kept.apply_move(moved)
        return bool(queue)

    async def requeued(self, job_id: str) -> None:
        now = time.time()
        if queue := await self._redis.step(lua_steps.requeued(job_id, at=now, open_statuses=OPEN)):
            await self._scheduler.requeue(queue.decode(), job_id, position=now, due_at=0)

    async def body(self, job_id: str) -> bytes | None:
        return await self._redis.command("GET", keys.body(job_id))

    async def get(self, job_id: str) -> Job | None:
        return decode_job(await self._redis.command("HGETALL", keys.job(job_id)))

    async def list(
        self, tenant: str, where: JobFilter, *, after: str | None, limit: int, oldest_first: bool = False
    ) -> Sequence[Job]:
        if (index := await self._pairs.smallest(tenant, where)) is not None:
            source = among_indexes(self._redis, (index,), oldest_first)
            forget = partial(self._pairs.clear, index)
            return await list_jobs(self._redis, source, where, after=after, limit=limit, forget=forget)
        source = await source_of(self._redis, tenant, where, oldest_first)
        return await list_jobs(self._redis, source, where, after=after, limit=limit)

    async def dead(self, *, model: str | None = None, after: str | None = None, limit: int) -> Sequence[Job]:
        where = JobFilter(JobStatus.FAILED, model, AttemptsExhausted.default_code)
        source = among_indexes(self._redis, (keys.DEAD,), oldest_first=False)
        return await list_jobs(self._redis, source, where, after=after, limit=limit)

    async def describe(self, job_id: str, metadata: Mapping[str, str]) -> bool:
        if (job := await self.get(job_id)) is None:
            return False
        async with self._pairs.moving(job, metadata, self.get):
            return bool(await self._redis.step(lua_steps.describe(job_id, metadata=orjson.dumps(metadata))))

    async def knew(self, tenant: str, job_id: str) -> bool:
        scores = await asyncio.gather(
            self._redis.command("ZSCORE", keys.jobs_of(tenant), job_id),
            self._redis.command("ZSCORE", keys.stored_of(tenant), job_id),
        )
        return any(score is not None for score in scores)
