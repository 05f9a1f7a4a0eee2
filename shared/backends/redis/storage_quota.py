"""Counts the bytes that tenants keep in Redis: see shared/quota.py. On one server, the step that writes a job also
counts its bytes. In a cluster, a job and its tenant's account may be on different nodes, so a second step updates the
account afterwards. If that step is lost, the count is wrong until the bucket expires.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared import quota
from shared.aio import run_and_discard
from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.refusals import raise_if_refused
from shared.job import Job


@dataclass(frozen=True, slots=True)
class Opening:
    """The bytes that are counted for a new job. `bucket`: see quota.py."""

    account: str
    held: int
    bucket: int
    record: int
    room: int

    @classmethod
    def of(cls, job: Job, spec: bytes, body: bytes, ttl: int) -> Opening:
        """Counts a new job. `ttl`: milliseconds for which it is kept if it never ends."""
        record = quota.RECORD + len(spec) + quota.size_of(job.metadata)
        room = quota.LOG_ROOM if job.logged else 0
        bucket = quota.bucket_at(time.time(), ttl / 1000)
        return cls(keys.kept_by(job.tenant), record + len(body) + room, bucket, record, room)


class KeptBytes:
    """Counts the bytes that tenants keep. `limit`: bytes that one tenant may keep; 0: unlimited."""

    def __init__(self, pipeline: Pipeline, limit: int) -> None:
        self._redis = pipeline
        self._limit = limit

    def of_record(self, opening: Opening) -> lua_steps.RecordBytes:
        return lua_steps.RecordBytes(
            account=opening.account,
            held=opening.held,
            bucket=opening.bucket,
            record=opening.record,
            room=opening.room,
            apart=self._redis.spread,
        )

    def of_index(self, opening: Opening, *, limited: bool) -> lua_steps.CountedBytes:
        return lua_steps.CountedBytes(bucket=opening.bucket, held=opening.held, limit=self._limit if limited else 0)

    def check(self, answer: Any) -> None:
        """Checks the answer of the step `index`. Raises StorageQuotaExceeded."""
        if answer != 1:
            raise quota.store_full(answer[0], self._limit)

    def apply_move(self, moved: Sequence[bytes]) -> None:
        """Updates the tenant's account on its own node, where a step could not."""
        if moved:
            self._move(*moved).add_done_callback(run_and_discard)

    async def reserve(self, job_id: str, attempt: int, room: int) -> None:
        """Reserves more room for a job's log. Raises AttemptFenced, StorageQuotaExceeded."""
        answer = await self._redis.step(lua_steps.reserve(job_id, attempt=attempt, room=room))
        raise_if_refused(answer)
        if answer[0] == b"full":
            raise quota.store_full(answer[1], answer[2])
        if answer[0] == b"apart":
            _, account, bucket, more = answer
            total, limit = await self._move(account, bucket, 0, after=bucket, bytes_=more, heed=True)
            if limit:
                raise quota.store_full(total, limit)
            step = lua_steps.reserve(job_id, attempt=attempt, room=room, granted=True)
            raise_if_refused(await self._redis.step(step))

    def _move(
        self, account: bytes, before: bytes, held: bytes | int, after: bytes, bytes_: bytes | int, *, heed: bool = False
    ) -> asyncio.Future[Any]:
        step = lua_steps.move_kept_bytes(
            account.decode(), bucket=before, held=held, new_bucket=after, new_held=bytes_, limited=heed
        )
        return self._redis.step(step)
