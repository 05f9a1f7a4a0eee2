"""Streams a job's log with numbered frames, from any frame, to any number of readers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog
from starlette.types import Send

from producer.admission.event_readers import EventReaders
from producer.http import serializers
from producer.http.answers import STREAM_HEADERS, StreamAnswer, send_body
from producer.http.sse import Numbered
from producer.jobs.service import Call, JobService
from producer.jobs.waiting_call import WaitingCall
from shared.errors import AuthenticationFailed, IgniteError
from shared.frames import error_frames
from shared.job import Job, JobStatus
from shared.ports import Update

log = structlog.get_logger(__name__)


@asynccontextmanager
async def attached(service: JobService, job: Job, readers: EventReaders) -> AsyncGenerator[Call]:
    with readers.counted(job.tenant):
        async with service.attach(job) as call:
            yield call


class EventsAnswer(StreamAnswer):
    """A stream whose frames have numbers. A reader that disconnects does not cancel the job."""

    mode = "events"

    def __init__(
        self,
        service: JobService,
        job: Job,
        after: int,
        keepalive: float,
        *,
        readers: EventReaders,
        key: str | None = None,
    ) -> None:
        """`after`: the number of the last frame that the client has. `readers` counts this one."""
        super().__init__(service, lambda: attached(service, job, readers), keepalive, key=key)
        self._numbered = Numbered(after)
        self._empty = True

    async def _serve(self, client: WaitingCall, send: Send) -> str:
        await self._start(client, send, STREAM_HEADERS)
        while True:
            try:
                update = await client.next(self._keepalive)
            except AuthenticationFailed as error:
                await send_body(send, error_frames(error.to_dict()), more=False)  # Without a number: resuming is 401.
                return "failed"
            except IgniteError as error:
                # An error frame has no number in the log: close, and the reader reconnects and resumes.
                log.warning(
                    "events.broken_off", job=client.job.id, error=str(error), next="the client reconnects and resumes"
                )
                return "failed"
            if update is None:
                await send_body(send, await self._comment(client), more=True)
                continue
            ending, whole = update.ending, await self._whole(client, update)
            sending = send_body(send, self._numbered.feed(whole), more=ending is None)
            del update, whole  # They would be held for as long as the client does not read.
            await sending
            if ending is not None:
                return ending.status

    async def _whole(self, client: WaitingCall, update: Update) -> bytes:
        """Returns the update's bytes. A unary completion has no log, so its frames are built from the result."""
        self._empty = self._empty and not update.data
        if update.ending is None or update.ending.status is not JobStatus.COMPLETED or not self._empty:
            return update.data
        job = await self._service.get(client.job.tenant, client.job.id)
        return serializers.unfold_job(job, await self._service.result(job))
