"""A call whose client waits, whichever gate it came by: what its job tells, how patiently, and how it ended."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from producer.auth.open_calls import revoked
from producer.jobs.service import Call, JobService, Place
from producer.metrics import CALLS_ENDED, FIRST_BYTE, OPEN_CALLS
from shared.errors import BackendUnavailable, Gone, RecordedError
from shared.job import Job, JobStatus
from shared.ports import FollowerClosed, Sink, Update

OpenCall = Callable[[], AbstractAsyncContextManager[Call]]

LOOK_AGAIN = 10.0
"""Seconds of silence after which a waiting call looks at its job's log: nothing that gets lost costs more than that."""

OUTAGE_PATIENCE = 30.0
"""Seconds a waiting call outlives the store's absence."""


class WaitingCall:
    """`ending` says how the call ended, for the metrics: whoever serves it sets it to the job's status."""

    def __init__(self, service: JobService, call: Call, mode: str, patience: float | None) -> None:
        self.call = call
        self.ending = "failed"
        self._service = service
        self._mode = mode
        # A client that joins a job has its patience still before it.
        since = time.time() if call.attached else call.job.created_at
        self._gives_up_at = math.inf if patience is None else since + patience
        self._waited: float | None = None
        self._revoked = False

    @property
    def job(self) -> Job:
        return self.call.job

    def revoke(self) -> None:
        """The client's key was revoked: whoever waits in `next` gets AuthenticationFailed."""
        self._revoked = True
        self.call.follower.close()

    def leave(self) -> None:
        """The client is gone: whoever waits in `next` gets FollowerClosed."""
        self.call.follower.close()

    async def next(self, seconds: float, sink: Sink | None = None) -> Update | None:
        """As the follower's, but a store that is away for a moment is waited for, and a job that still waits at its
        deadline ends here: the broker looks at messages only when they come to the head of their queue.
        """
        quiet_until = time.monotonic() + seconds
        until: float | None = None
        while True:
            asked = time.time()
            left = min(self.job.deadline_at, self._gives_up_at) - asked
            wait = min(max(0.0, quiet_until - time.monotonic()), LOOK_AGAIN, left if left > 0 else math.inf)
            try:
                # What comes after an outage comes here, so that the next outage is known to be another one.
                update = await self.call.follower.next(wait, sink if until is None else None)
                until = None
                if update is None and left > 0 and (left <= wait or time.time() >= asked + left):
                    await self._service.expire(self.job.id)
                elif update is not None or time.monotonic() >= quiet_until:
                    self._note(update)
                    return update
            except FollowerClosed:
                raise revoked() if self._revoked else FollowerClosed from None
            except BackendUnavailable:
                until = until or time.monotonic() + OUTAGE_PATIENCE
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.2)
            except Gone:
                if not await self._service.restore(self.call):
                    raise

    def _note(self, update: Update | None) -> None:
        if update is None:
            return
        if self._waited is None and update.status is not JobStatus.QUEUED:
            self._waited = time.time() - self.job.created_at
        if update.ending is not None and self.call.meter is not None:
            self.call.meter.charge(update.ending.status, update.ending.usage)

    async def result(self, last: Update) -> bytes:
        """The completion of a job whose `last` update this is. Raises what ended the job where it has none."""
        assert last.ending is not None
        if last.ending.result:
            return last.ending.result
        if last.ending.error:
            raise RecordedError(last.ending.error)
        return await self._service.result(await self._service.get(self.job.tenant, self.job.id))

    async def place(self) -> Place:
        try:
            return await self._service.place(self.job)
        except BackendUnavailable:
            return Place(JobStatus.QUEUED, None, None, alive=False)

    def begin(self) -> dict[str, str]:
        """The answer begins; what its headers say about the job."""
        FIRST_BYTE.labels(self.job.model, self._mode).observe(time.time() - self.job.created_at)
        return self.about_job()

    def about_job(self) -> dict[str, str]:
        """Headers for whatever is answered."""
        waited = time.time() - self.job.created_at if self._waited is None else self._waited
        return {"x-job-id": self.job.id, "x-queue-wait-ms": str(int(waited * 1000))}


@asynccontextmanager
async def waiting(
    service: JobService,
    open_call: OpenCall,
    mode: str,
    patience: float | None = None,
    key: str | None = None,
) -> AsyncGenerator[WaitingCall]:
    """Open a call and see how it ends; a client that left ends it quietly.

    `patience`: seconds after which a job that still waits is given up, where that is before its deadline. `key`: the
    stored key that the call came with.
    """
    async with open_call() as call:
        del open_call  # It holds the parsed request.
        client = WaitingCall(service, call, mode, patience=patience)
        with OPEN_CALLS.labels(mode).track_inprogress(), service.open_calls.ended_with(key, client.revoke):
            try:
                yield client
            except FollowerClosed:
                client.ending = "hung_up"
                service.abandon(call)
            except BackendUnavailable:
                # Its client is told to come again, and would not know of this job.
                service.abandon(call)
                raise
            except asyncio.CancelledError:
                # This process is stopping, not the client leaving: the job runs on, and its events can be followed.
                client.ending = "cut_off"
                raise
            finally:
                CALLS_ENDED.labels(call.job.model, client.ending).inc()
