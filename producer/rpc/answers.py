"""gRPC answers to clients that wait: the stream, and the unary answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import grpc.aio
import orjson

from producer.http.sse import Frames
from producer.jobs.service import JobService, Submission
from producer.jobs.waiting_call import WaitingCall, waiting
from producer.rpc.messages import chunk_of, completion_of
from shared.aio import run_and_discard
from shared.errors import RecordedError, ShuttingDown
from shared.frames import DONE
from shared.job import Mode
from shared.ports import FollowerClosed
from shared.proto.dodil.ignite.v1.model_service_pb2 import ChatCompletionResponse

Context = grpc.aio.ServicerContext[Any, Any]

PREFIX = b"data: "
LAST = DONE.strip()
ERROR = PREFIX + b'{"error":'


class Answer:
    """What both kinds share: open the call, serve it, and notice that the client has left.

    gRPC cancels its handler wherever that stands, also between two steps that belong together, as a job's record and
    its message do. So the work is a task of its own, which is told.
    """

    mode: Mode

    def __init__(
        self, service: JobService, submission: Submission, context: Context, marks: dict[str, str], keepalive: float
    ) -> None:
        """`marks`: metadata of the answer; what is learned about the job is added."""
        self._service = service
        self._submission = submission
        self._context = context
        self._marks = marks
        self._keepalive = keepalive
        self._since = time.perf_counter()
        self._client: WaitingCall | None = None
        self._started = self._gone = self._cut = False
        self.task = asyncio.create_task(self._work(), name=f"answer {marks['x-request-id']}")
        self.task.add_done_callback(run_and_discard)

    async def end(self) -> ChatCompletionResponse | None:
        """The unary answer; None once a stream has been sent. Raises FollowerClosed if the client has left."""
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self._cut:
                raise ShuttingDown("This server is shutting down; the call's job runs on.") from None
            self._leave()
            await asyncio.wait([self.task])
            raise

    def cut_off(self) -> None:
        """This process is stopping, not the client leaving."""
        self._cut = True
        self.task.cancel()

    def _leave(self) -> None:
        self._gone = True
        if self._client is not None:
            self._client.leave()

    async def _work(self) -> ChatCompletionResponse | None:
        submission = self._submission
        async with waiting(
            self._service, lambda: self._service.call(submission), self.mode, key=submission.principal.key
        ) as client:
            self._client = client
            self._marks["x-job-id"] = client.job.id
            if self._gone:
                client.leave()
            return await self._serve(client)
        raise FollowerClosed

    async def _serve(self, client: WaitingCall) -> ChatCompletionResponse | None:
        """Answer, and note how the job ended. Raises FollowerClosed when the client has left."""
        raise NotImplementedError

    async def _start(self, client: WaitingCall) -> None:
        if not self._started:
            self._started = True
            taken = {"openai-processing-ms": str(int((time.perf_counter() - self._since) * 1000))}
            metadata = self._marks | client.begin() | taken | self.rate_limits()
            await unless_gone(self._context.send_initial_metadata(tuple(metadata.items())))

    def rate_limits(self) -> dict[str, str]:
        """How the call's key stands, where it has limits."""
        meter = self._submission.meter
        return {} if meter is None else meter.headers()


async def unless_gone(sending: Awaitable[None]) -> None:
    try:
        await sending
    except grpc.aio.BaseError:  # Nothing can be sent to a client that has left.
        raise FollowerClosed from None


class UnaryAnswer(Answer):
    """The completion, once the job is over."""

    mode = "unary"

    async def _serve(self, client: WaitingCall) -> ChatCompletionResponse:
        while True:
            update = await client.next(self._keepalive)
            if update is not None and update.ending is not None:
                result = await client.result(update)
                await self._start(client)
                client.ending = update.ending.status
                return completion_of(result)


class StreamAnswer(Answer):
    """A message for each frame of the log. While nothing comes HTTP/2's own pings show that the call is alive."""

    mode = "stream"

    async def _serve(self, client: WaitingCall) -> None:
        frames = Frames()
        while True:
            update = await client.next(self._keepalive)
            if update is None:
                await self._start(client)
                continue
            if update.ending is not None:
                client.ending = update.ending.status
            for frame in frames.feed(update.data):
                await self._send(client, frame)
            if update.ending is not None:
                raise_error(update.ending.error)
                return

    async def _send(self, client: WaitingCall, frame: bytes) -> None:
        if frame == LAST:
            return
        data = frame.removeprefix(PREFIX)
        if frame.startswith(ERROR):
            raise_error(orjson.loads(data)["error"])
        await self._start(client)
        await unless_gone(self._context.write(chunk_of(data)))


def raise_error(error: Mapping[str, Any] | None) -> None:
    """An error in band ends a stream of messages as its status."""
    if error:
        raise RecordedError(error)
