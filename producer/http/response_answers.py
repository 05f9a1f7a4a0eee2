"""Answers waiting clients of the Responses API: with the response, or with its events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import structlog
from starlette.types import Receive, Scope, Send

from producer.admission.event_readers import EventReaders
from producer.http.answers import STREAM_HEADERS, CallAnswer, StreamAnswer, UnaryAnswer
from producer.http.eager_send import EagerSender
from producer.http.job_events import attached
from producer.jobs.service import JobService
from producer.jobs.submission import Submission
from producer.jobs.waiting_call import OUTAGE_PATIENCE, WaitingCall
from producer.responses.events import ResponseEvents
from producer.responses.kept import Kept
from producer.responses.stored import StoredResponses
from producer.responses.translate import Translated
from shared.errors import AuthenticationFailed, BackendUnavailable, IgniteError, RecordedError
from shared.job import Job, JobStatus
from shared.ports import Sink, Update

log = structlog.get_logger(__name__)


class RenamedErrors(CallAnswer):
    """Names the response's fields in errors, where the chat request's fields are named."""

    _rename: Callable[[IgniteError], IgniteError]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except IgniteError as error:
            raise self._rename(error) from None

    def _told(self, error: IgniteError) -> IgniteError:
        return self._rename(error)


class ResponseAnswer(RenamedErrors, UnaryAnswer):
    """Sends the response once the job has ended. A job that fails is an HTTP error, as in chat."""

    def __init__(
        self,
        service: JobService,
        submission: Submission,
        translated: Translated,
        stored: StoredResponses,
        keepalive: float,
        *,
        padding: float,
    ) -> None:
        super().__init__(
            service,
            lambda: service.call(submission),
            keepalive,
            padding=padding,
            key=submission.principal.key,
        )
        self._stored = stored
        self._kept = translated.kept
        self._rename = translated.renamed

    async def _result(self, client: WaitingCall, update: Update) -> bytes:
        assert update.ending is not None
        if update.ending.error and not update.ending.result:
            raise RecordedError(update.ending.error)
        job = await self._service.get(client.job.tenant, client.job.id)
        if job.status is not JobStatus.COMPLETED:
            raise RecordedError(job.error or {})
        kept = await self._stored.kept(job) if client.call.attached else self._kept
        return orjson.dumps((await self._stored.replayed(job, kept)).response)


class TokenCountAnswer(ResponseAnswer):
    """Sends how many tokens the engine has read."""

    async def _result(self, client: WaitingCall, update: Update) -> bytes:
        completion = orjson.loads(await client.result(update))
        usage: Mapping[str, Any] = completion.get("usage") or {}
        tokens = usage.get("prompt_tokens")
        if tokens is None:
            raise IgniteError("The engine does not tell how many tokens it has read.", code="tokens_not_counted")
        return orjson.dumps({"object": "response.input_tokens", "input_tokens": tokens})


class EventStream(StreamAnswer):
    """Sends events made from the job's log. `_events` is set before the first byte of the log is taken."""

    _events: ResponseEvents

    def _sink(self, sender: EagerSender) -> Sink:
        events = self._events

        def push(data: bytes) -> bool:
            translated = events.feed(data)
            return sender.push(translated) if translated else True

        return push

    def _translated(self, data: bytes) -> bytes:
        return self._events.feed(data)

    async def _last(self, client: WaitingCall, update: Update) -> bytes:
        said = self._events.feed(update.data)
        try:
            return said + await self._ending(client.job)
        except IgniteError as error:
            return said + self._broken_off(client, error)

    async def _ending(self, job: Job) -> bytes:
        """Returns the last events. The times in them are the record's."""
        ended, said = await self._ended(job), b""
        if not ended.chunks and ended.status is JobStatus.COMPLETED:
            said = self._events.feed_completion(orjson.loads(await self._service.result(ended)))
        return said + self._events.end(ended)

    async def _ended(self, job: Job) -> Job:
        """Returns the record of a job that has ended; waits out a short outage of the store."""
        until = time.monotonic() + OUTAGE_PATIENCE
        while True:
            try:
                return await self._service.get(job.tenant, job.id)
            except BackendUnavailable:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.2)


class ResponseStreamAnswer(RenamedErrors, EventStream):
    """Sends the response's events as the job's log grows. A client that leaves cancels the job, as in chat."""

    def __init__(
        self,
        service: JobService,
        submission: Submission,
        translated: Translated,
        stored: StoredResponses,
        keepalive: float,
    ) -> None:
        super().__init__(
            service,
            lambda: service.call(submission),
            keepalive,
            patience=submission.patience,
            key=submission.principal.key,
        )
        self._stored = stored
        self._kept: Kept | None = translated.kept
        self._rename = translated.renamed

    async def _open(self, client: WaitingCall, send: Send) -> None:
        kept = await self._stored.kept(client.job) if client.call.attached or not self._kept else self._kept
        self._events = ResponseEvents(client.job, kept)
        self._kept = None

    def _broken_off(self, client: WaitingCall, error: IgniteError) -> bytes:
        return error_event(self._events.next_number, self._rename(error))


class ResumedAnswer(EventStream):
    """Sends the events of a response that is there, after the number `after`. A reader that leaves ends nothing."""

    mode = "events"

    def __init__(
        self,
        service: JobService,
        job: Job,
        kept: Kept,
        keepalive: float,
        *,
        readers: EventReaders,
        after: int = -1,
        key: str | None = None,
    ) -> None:
        job = replace(job, result=None)  # It would stay in memory for as long as the client reads the stream.
        super().__init__(service, lambda: attached(service, job, readers), keepalive, key=key)
        self._events = ResponseEvents(job, kept, after)

    async def _open(self, client: WaitingCall, send: Send) -> None:
        await self._start(client, send, STREAM_HEADERS)
        if first := self._events.open():
            await self._send(client, send, first)

    def _broken_off(self, client: WaitingCall, error: IgniteError) -> bytes:
        if isinstance(error, AuthenticationFailed):  # The key was revoked: resuming is refused.
            return error_event(self._events.next_number, error)
        # An error has no number in the log: close, and the reader reconnects and resumes.
        log.warning("events.broken_off", job=client.job.id, error=str(error), next="the client reconnects and resumes")
        return b""


def error_event(number: int, error: IgniteError) -> bytes:
    about = error.to_dict()
    members = {name: about[name] for name in ("code", "message", "param")}
    event = {"type": "error", "sequence_number": number, **members}
    return b"event: error\ndata: %b\n\n" % orjson.dumps(event)
