"""HTTP answers to clients that wait: the stream, and the unary answer. Both notice a hang-up at once and always let go
of their job's follower.

Raw ASGI, because a generator behind Starlette's StreamingResponse is not closed when the client vanishes while the
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
from shared.ports import Update

log = structlog.get_logger(__name__)

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
ERROR_FRAME = b'data: {"error":'


@asynccontextmanager
async def hang_up_watched(receive: Receive, client: WaitingCall) -> AsyncGenerator[None]:
    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        client.leave()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        # Not waited for: it holds nothing, and there is one for every call.
        watching.cancel()


class CallAnswer(Response):
    """What both kinds share: open the call, serve it, and see how it ended."""

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
        """`patience`: seconds after which a job that still waits is given up, where that is before its deadline.
        `key`: the stored key that the call came with, which may be revoked.
        """
        super().__init__()
        self._service = service
        self._open_call = open_call
        self._keepalive = keepalive
        self._patience = patience
        self._key = key
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with (
            waiting(self._service, self._take_open_call(), self.mode, self._patience, self._key) as client,
            hang_up_watched(receive, client),
        ):
            try:
                client.ending = await self._serve(client, send)
            except IgniteError as error:
                if self._started:
                    raise
                await error_response(error, client.about_job())(scope, receive, send)

    def _take_open_call(self) -> OpenCall:
        """What opens the call holds its whole request, and a call may wait for hours."""
        open_call = self._open_call
        del self._open_call
        return open_call

    async def _serve(self, client: WaitingCall, send: Send) -> str:
        """Answer; how the job ended. Raises FollowerClosed when the client has left."""
        raise NotImplementedError

    async def _start(self, client: WaitingCall, send: Send, content_type: dict[str, str]) -> None:
        self._started = True
        headers = content_type | client.begin()
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})


class StreamAnswer(CallAnswer):
    """SSE: relays the log's bytes as they are, what has gathered in one write."""

    mode = "stream"

    async def _serve(self, client: WaitingCall, send: Send) -> str:
        relay = EagerSender(send)
        while True:
            try:
                update = await client.next(self._keepalive, relay.push if self._started else None)
                await relay.settle()
                if update is not None and not self._started:
                    raise_plain_error(update)
            except IgniteError as error:
                if not self._started:
                    raise
                await relay.settle()
                await send_body(send, error_frames(error.to_dict()), more=False)
                return "failed"
            if update is None:
                await self._send(client, send, await self._comment(client))
            elif update.ending is not None:
                await self._send(client, send, update.data, more=False)
                return update.ending.status
            elif update.data:
                await self._send(client, send, update.data)

    async def _send(self, client: WaitingCall, send: Send, data: bytes, *, more: bool = True) -> None:
        if not self._started:
            await self._start(client, send, STREAM_HEADERS)
        await send_body(send, data, more=more)

    async def _comment(self, client: WaitingCall) -> bytes:
        place = await client.place()
        text = keepalive(place.status, alive=place.alive, position=place.position, eta=place.eta, workers=place.workers)
        # One newline: some decoders take each blank line for the end of an event, and read an event without data.
        return text.encode() + b"\n"


def raise_plain_error(update: Update) -> None:
    """A job that failed before it said anything answers with a proper status, not with an error inside a 200."""
    said_nothing = not update.data or update.data.startswith(ERROR_FRAME)
    if update.ending is not None and update.ending.error and said_nothing:
        raise RecordedError(update.ending.error)


LARGE = 8 * 1024
"""Bytes of a piece after which nothing is read from the log until the client has taken it."""


async def send_body(send: Send, data: bytes, *, more: bool) -> None:
    large = len(data) > LARGE
    await send({"type": "http.response.body", "body": data, "more_body": more})
    del data  # The server has a copy; this one would be held for as long as the client does not read.
    if more and large:
        # The server waits before it takes a piece, not after: without this one more would be held.
        await send({"type": "http.response.body", "body": b"", "more_body": True})


class UnaryAnswer(CallAnswer):
    """The completion's bytes, once the job is over. After `padding` seconds newlines go ahead of it: they keep clients
    from timing out, and JSON may begin with white space. 0: they never do.
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

    async def _answer(self, client: WaitingCall, send: Send, update: Update) -> str:
        assert update.ending is not None
        try:
            result = await client.result(update)
        except IgniteError as error:
            if not self._started:
                raise
            # An error body after a 200 would be read as a completion: breaking off is the only honest end.
            log.warning("unary.aborted", job=client.job.id, error=str(error))
            return "failed"
        if not self._started:
            await self._start(client, send, {"content-type": "application/json", "content-length": str(len(result))})
        await send_body(send, result, more=False)
        return update.ending.status
