"""A call with a waiting client, over HTTP or gRPC: reads its job's updates, enforces timeouts, counts how calls end."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from producer.auth.open_calls import revoked
from producer.jobs.jobs import QueuePosition
from producer.jobs.service import Call, JobService
from producer.metrics import CALLS_ENDED, FIRST_BYTE, OPEN_CALLS
from shared.errors import BackendUnavailable, Gone, RecordedError
from shared.job import Job, JobStatus
from shared.ports import FollowerClosed, Sink, Update

OpenCall = Callable[[], AbstractAsyncContextManager[Call]]

LOOK_AGAIN = 10.0
"""Seconds without an update after which the log is read again; bounds the delay of a lost pub/sub message."""

OUTAGE_PATIENCE = 30.0
"""Seconds for which a waiting call survives an outage of the store."""


class WaitingCall:
    """Follows one job for its client. `ending`: how the call ended, for the metrics; set by the route."""

    def __init__(self, service: JobService, call: Call, mode: str, *, patience: float | None) -> None:
        self.call = call
        self.ending = "failed"
        self._service = service
        self._mode = mode
        # The patience of a client that joins an existing job begins now.
        since = time.time() if call.attached else call.job.created_at
        self._gives_up_at = math.inf if patience is None else since + patience
        self._waited: float | None = None
        self._revoked = False

    @property
    def job(self) -> Job:
        return self.call.job

    def revoke(self) -> None:
        """Ends the call because its API key was revoked: `next` raises AuthenticationFailed."""
        self._revoked = True
        self.call.follower.close()

    def leave(self) -> None:
        """Ends the call because the client disconnected: `next` raises FollowerClosed."""
        self.call.follower.close()

    async def next(self, seconds: float, sink: Sink | None = None) -> Update | None:
        """Returns the follower's next update. Waits out short outages of the store, and expires a job still queued at
        its deadline: the broker drops expired messages only at the head of the queue.
        """
        quiet_until = time.monotonic() + seconds
        until: float | None = None
        while True:
            asked = time.time()
            left = min(self.job.deadline_at, self._gives_up_at) - asked
            wait = min(max(0.0, quiet_until - time.monotonic()), LOOK_AGAIN, left if left > 0 else math.inf)
            try:
                # After an outage the next update is returned here, not given to the sink: that ends the outage.
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
        """Returns the completion's bytes from the job's `last` update. Raises the job's error where it has one."""
        assert last.ending is not None
        if last.ending.result:
            return last.ending.result
        if last.ending.error:
            raise RecordedError(last.ending.error)
        return await self._service.result(await self._service.get(self.job.tenant, self.job.id))

    async def queue_position(self) -> QueuePosition:
        try:
            return await self._service.queue_position(self.job)
        except BackendUnavailable:
            return QueuePosition(JobStatus.QUEUED, None, None, alive=False)

    def begin(self) -> dict[str, str]:
        """Records the time to the first byte, and returns the response headers about the job."""
        FIRST_BYTE.labels(self.job.model, self._mode).observe(time.time() - self.job.created_at)
        return self.about_job()

    def about_job(self) -> dict[str, str]:
        """Returns the response headers about the job."""
        waited = time.time() - self.job.created_at if self._waited is None else self._waited
        return {"x-job-id": self.job.id, "x-queue-wait-ms": str(int(waited * 1000))}


@asynccontextmanager
async def waiting(
    service: JobService,
    open_call: OpenCall,
    mode: str,
    *,
    patience: float | None = None,
    key: str | None = None,
) -> AsyncGenerator[WaitingCall]:
    """Opens a call and counts how it ends. A client's disconnect ends it without an error.

    `patience`: seconds after which a queued job is given up, where that is before its deadline. `key`: id of the stored
    API key of the call.
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
                # The client gets an error and retries; it has no id of this job.
                service.abandon(call)
                raise
            except asyncio.CancelledError:
                # This process is stopping, not the client leaving: the job runs on, and its events can be followed.
                client.ending = "cut_off"
                raise
            finally:
                CALLS_ENDED.labels(call.job.model, client.ending).inc()
