"""Answers to clients that wait: the stream, and the unary answer. Both notice a hang-up at once and always let go of
their job's follower.

Raw ASGI, because a generator behind Starlette's StreamingResponse is not closed when the client vanishes while the
server waits in `send`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from producer.metrics import CALLS_ENDED, FIRST_BYTE, OPEN_CALLS
from producer.service import Call, JobService, Place
from producer.sse import keepalive
from shared.errors import BackendUnavailable, Gone, IgniteError, RecordedError
from shared.frames import error_frames
from shared.job import Job, JobStatus
from shared.ports import FollowerClosed, Update

log = structlog.get_logger(__name__)

OpenCall = Callable[[], AbstractAsyncContextManager[Call]]

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
ERROR_FRAME = b'data: {"error":'

LOOK_AGAIN = 10.0
"""Seconds of silence after which a waiting call looks at its job's log: nothing that gets lost costs more than that."""

OUTAGE_PATIENCE = 30.0
"""Seconds a waiting call outlives the store's absence."""


@asynccontextmanager
async def hang_up_watched(receive: Receive, call: Call) -> AsyncGenerator[None]:
    """Close the call's follower when the client leaves: whoever waits on it gets FollowerClosed."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        call.follower.close()

    watching = asyncio.create_task(watch(), name=f"hang-up {call.job.id}")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


class CallAnswer(Response):
    """What both kinds share: open the call, serve it, and see how it ended."""

    mode = ""

    def __init__(
        self, service: JobService, open_call: OpenCall, keepalive: float, *, patience: float | None = None
    ) -> None:
        """`patience`: seconds after which a job that still waits is given up, where that is before its deadline."""
        super().__init__()
        self._patience = math.inf if patience is None else patience
        self._service = service
        self._open_call = open_call
        self._keepalive = keepalive
        self._started = False
        self._waited: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._open_call() as call:
            with OPEN_CALLS.labels(self.mode).track_inprogress():
                ending = "failed"
                try:
                    async with hang_up_watched(receive, call):
                        ending = await self._serve(call, send)
                except FollowerClosed:
                    ending = "hung_up"
                    self._service.abandon(call)
                except asyncio.CancelledError:
                    # This process is stopping, not the client leaving: the job runs on, and its events can be followed.
                    ending = "cut_off"
                    raise
                finally:
                    CALLS_ENDED.labels(call.job.model, ending).inc()

    async def _serve(self, call: Call, send: Send) -> str:
        """Answer; how the job ended. Raises FollowerClosed when the client has left."""
        raise NotImplementedError

    async def _next(self, call: Call, seconds: float) -> Update | None:
        """As the follower's, but a store that is away for a moment is waited for, and a job that still waits at its
        deadline ends here: the broker looks at messages only when they come to the head of their queue.
        """
        quiet_until = time.monotonic() + seconds
        until = time.monotonic() + OUTAGE_PATIENCE
        while True:
            left = min(call.job.deadline_at, call.job.created_at + self._patience) - time.time()
            wait = min(max(0.0, quiet_until - time.monotonic()), LOOK_AGAIN, left if left > 0 else math.inf)
            try:
                update = await call.follower.next(wait)
                if update is None and 0 < left <= wait:
                    await self._service.expire(call.job.id)
                elif update is not None or time.monotonic() >= quiet_until:
                    self._note_wait(call.job, update)
                    return update
            except BackendUnavailable:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.2)
            except Gone:
                if not await self._service.restore(call):
                    raise

    def _note_wait(self, job: Job, update: Update | None) -> None:
        if self._waited is None and update is not None and update.status is not JobStatus.QUEUED:
            self._waited = time.time() - job.created_at

    async def _place(self, call: Call) -> Place:
        try:
            return await self._service.place(call.job)
        except BackendUnavailable:
            return Place(JobStatus.QUEUED, None, None, alive=False)

    async def _start(self, call: Call, send: Send, content_type: dict[str, str]) -> None:
        self._started = True
        taken = time.time() - call.job.created_at
        waited = taken if self._waited is None else self._waited
        FIRST_BYTE.labels(call.job.model, self.mode).observe(taken)
        headers = content_type | {"x-job-id": call.job.id, "x-queue-wait-ms": str(int(waited * 1000))}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})


class StreamAnswer(CallAnswer):
    """SSE: relays the log's bytes as they are, what has gathered in one write."""

    mode = "stream"

    async def _serve(self, call: Call, send: Send) -> str:
        while True:
            try:
                update = await self._next(call, self._keepalive)
                if update is not None and not self._started:
                    raise_plain_error(update)
            except IgniteError as error:
                if not self._started:
                    raise
                await send_body(send, error_frames(error.to_dict()), more=False)
                return "failed"
            if update is None:
                await self._send(call, send, await self._comment(call))
            elif update.ending is not None:
                await self._send(call, send, update.data, more=False)
                return update.ending.status
            elif update.data:
                await self._send(call, send, update.data)

    async def _send(self, call: Call, send: Send, data: bytes, *, more: bool = True) -> None:
        if not self._started:
            await self._start(call, send, STREAM_HEADERS)
        await send_body(send, data, more=more)

    async def _comment(self, call: Call) -> bytes:
        place = await self._place(call)
        text = keepalive(place.status, alive=place.alive, position=place.position, eta=place.eta)
        return text.encode() + b"\n\n"


def raise_plain_error(update: Update) -> None:
    """A job that failed before it said anything answers with a proper status, not with an error inside a 200."""
    said_nothing = not update.data or update.data.startswith(ERROR_FRAME)
    if update.ending is not None and update.ending.error and said_nothing:
        raise RecordedError(update.ending.error)


async def send_body(send: Send, data: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


class UnaryAnswer(CallAnswer):
    """The completion's bytes, once the job is over. After `padding` seconds newlines go ahead of it: they keep clients
    from timing out, and JSON may begin with white space. 0: they never do.
    """

    mode = "unary"

    def __init__(self, service: JobService, open_call: OpenCall, keepalive: float, *, padding: float) -> None:
        super().__init__(service, open_call, keepalive)
        self._padding = padding

    async def _serve(self, call: Call, send: Send) -> str:
        patience = self._padding or self._keepalive
        while True:
            update = await self._next(call, patience)
            if update is None and self._padding:
                await self._pad(call, send)
                patience = self._keepalive
            elif update is not None and update.ending is not None:
                return await self._answer(call, send, update)

    async def _pad(self, call: Call, send: Send) -> None:
        if not self._started:
            await self._start(call, send, {"content-type": "application/json"})
        await send_body(send, b"\n", more=True)

    async def _answer(self, call: Call, send: Send, update: Update) -> str:
        assert update.ending is not None
        try:
            result = update.ending.result or await self._service.result(await self._record(call.job, update))
        except IgniteError as error:
            if not self._started:
                raise
            # An error body after a 200 would be read as a completion: breaking off is the only honest end.
            log.warning("unary.aborted", job=call.job.id, error=error.message)
            return "failed"
        if not self._started:
            await self._start(call, send, {"content-type": "application/json", "content-length": str(len(result))})
        await send_body(send, result, more=False)
        return update.ending.status

    async def _record(self, job: Job, update: Update) -> Job:
        if update.ending is not None and update.ending.error:
            raise RecordedError(update.ending.error)
        return await self._service.get(job.tenant, job.id)
