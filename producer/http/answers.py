"""Answers waiting HTTP clients, as a stream or with one completion. Both notice a disconnect at once and always close
their job's follower.

Raw ASGI, because a generator behind Starlette's StreamingResponse is not closed when the client disconnects while the
server waits in `send`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from producer.http.eager_send import EagerSender
from producer.http.errors import error_response
from producer.http.sse import keepalive
from producer.jobs.service import JobService
from producer.jobs.waiting_call import OpenCall, WaitingCall, waiting
from shared.errors import IgniteError, RecordedError
from shared.frames import error_frames
from shared.ports import Sink, Update

log = structlog.get_logger(__name__)

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
ERROR_FRAME = b'data: {"error":'


@asynccontextmanager
async def watching_disconnect(receive: Receive, client: WaitingCall) -> AsyncGenerator[None]:
    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        client.leave()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()  # Not awaited: the task owns no resource, and awaiting it would cost a step in every call.


class CallAnswer(Response):
    """Opens the call, serves it, and records how it ended. The base of both kinds of answers."""

    mode = ""

    def __init__(
        self,
        service: JobService,
        open_call: OpenCall,
        keepalive: float,
        *,
        patience: float | None = None,
        key: str | None = None,
    ) -> None:
        """`keepalive`: seconds between signs of life. `patience`: seconds after which a job that is still queued is
        given up, if its deadline is later. `key`: the id of the call's stored key; the call ends if it is revoked.
        """
        super().__init__()
        self._service = service
        self._open_call = open_call
        self._keepalive = keepalive
        self._patience = patience
        self._key = key
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_call = self._open_call
        del self._open_call  # It holds the whole request, and a call may wait for hours.
        call = waiting(self._service, open_call, self.mode, patience=self._patience, key=self._key)
        del open_call
        async with call as client, watching_disconnect(receive, client):
            try:
                client.ending = await self._serve(client, send)
            except IgniteError as error:
                if self._started:
                    raise
                await error_response(self._told(error), client.about_job())(scope, receive, send)

    def _told(self, error: IgniteError) -> IgniteError:
        """Returns the error as the client is told of it."""
        return error

    async def _serve(self, client: WaitingCall, send: Send) -> str:
        """Sends the answer and returns the job's final status. Raises FollowerClosed when the client has left."""
        raise NotImplementedError

    async def _start(self, client: WaitingCall, send: Send, content_type: dict[str, str]) -> None:
        self._started = True
        headers = content_type | client.begin()
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})


class StreamAnswer(CallAnswer):
    """Sends the log's bytes as SSE, unchanged; bytes that have gathered leave in one write."""

    mode = "stream"

    async def _serve(self, client: WaitingCall, send: Send) -> str:
        sender = EagerSender(send)
        await self._open(client, send)
        sink = self._sink(sender)
        while True:
            try:
                update = await client.next(self._keepalive, sink if self._started else None)
                await sender.flush()
                if update is not None and not self._started:
                    raise_early_error(update)
            except IgniteError as error:
                if not self._started:
                    raise
                await sender.flush()
                await send_body(send, self._broken_off(client, error), more=False)
                return "failed"
            if update is None:
                await self._send(client, send, await self._comment(client))
            elif update.ending is not None:
                await self._send(client, send, await self._last(client, update), more=False)
                return update.ending.status
            elif update.data:
                sending = self._send(client, send, self._translated(update.data))
                del update  # It would be held for as long as the client does not read.
                await sending

    async def _open(self, client: WaitingCall, send: Send) -> None:
        """Sends what needs no log."""

    def _sink(self, sender: EagerSender) -> Sink:
        """Returns what takes the log's bytes as they come."""
        return sender.push

    def _translated(self, data: bytes) -> bytes:
        """Returns what the client gets for bytes of the log."""
        return data

    async def _last(self, client: WaitingCall, update: Update) -> bytes:
        """Returns what the client gets for the job's last update."""
        return update.data

    def _broken_off(self, client: WaitingCall, error: IgniteError) -> bytes:
        """Returns what ends a stream that cannot be followed to its end."""
        return error_frames(error.to_dict())

    async def _send(self, client: WaitingCall, send: Send, data: bytes, *, more: bool = True) -> None:
        if not self._started:
            await self._start(client, send, STREAM_HEADERS)
        sending = send_body(send, data, more=more)
        del data
        await sending

    async def _comment(self, client: WaitingCall) -> bytes:
        queue = await client.queue_position()
        text = keepalive(queue.status, alive=queue.alive, position=queue.position, eta=queue.eta, workers=queue.workers)
        # One newline: some decoders treat each blank line as the end of an event, and yield an event without data.
        return text.encode() + b"\n"


def raise_early_error(update: Update) -> None:
    """Raises the error of a job that failed before its first chunk: it gets its own status, not an error in a 200."""
    no_chunk = not update.data or update.data.startswith(ERROR_FRAME)
    if update.ending is not None and update.ending.error and no_chunk:
        raise RecordedError(update.ending.error)


LARGE = 8 * 1024
"""Bytes. After a larger chunk the log is not read until the client has taken the chunk."""


async def send_body(send: Send, data: bytes, *, more: bool) -> None:
    large = len(data) > LARGE
    await send({"type": "http.response.body", "body": data, "more_body": more})
    del data  # The server has a copy; this one would stay in memory for as long as the client does not read.
    if more and large:
        # The server waits before it takes a chunk, not after: without this, one more chunk would stay in memory.
        await send({"type": "http.response.body", "body": b"", "more_body": True})


class UnaryAnswer(CallAnswer):
    """Sends the completion once the job has ended. After `padding` seconds (0: never) it sends newlines first, which
    keep clients from timing out; JSON may begin with white space.
    """

    mode = "unary"

    def __init__(
        self, service: JobService, open_call: OpenCall, keepalive: float, *, padding: float, key: str | None = None
    ) -> None:
        super().__init__(service, open_call, keepalive, key=key)
        self._padding = padding

    async def _serve(self, client: WaitingCall, send: Send) -> str:
        patience = self._padding or self._keepalive
        while True:
            update = await client.next(patience)
            if update is None and self._padding:
                await self._pad(client, send)
                patience = self._keepalive
            elif update is not None and update.ending is not None:
                return await self._answer(client, send, update)

    async def _pad(self, client: WaitingCall, send: Send) -> None:
        if not self._started:
            await self._start(client, send, {"content-type": "application/json"})
        await send_body(send, b"\n", more=True)

    async def _result(self, client: WaitingCall, update: Update) -> bytes:
        """Returns the answer's body. Raises the job's error."""
        return await client.result(update)

    async def _answer(self, client: WaitingCall, send: Send, update: Update) -> str:
        assert update.ending is not None
        try:
            result = await self._result(client, update)
        except IgniteError as error:
            if not self._started:
                raise
            # The status 200 has been sent, and a client would read an error's body as a completion: close instead.
            log.warning("unary.aborted", job=client.job.id, error=str(error))
            return "failed"
        if not self._started:
            await self._start(client, send, {"content-type": "application/json", "content-length": str(len(result))})
        await send_body(send, result, more=False)
        return update.ending.status
