"""Answers waiting gRPC clients, as a stream or with one completion."""

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
    """Opens the call, serves it, and notices a disconnect. The base of both kinds of answers.

    gRPC cancels its handler at any await, also between steps that belong together, such as writing a job's record and
    sending its message. So the work runs in a task of its own, which is notified instead of cancelled.
    """

    mode: Mode

    def __init__(
        self,
        service: JobService,
        submission: Submission,
        context: Context,
        *,
        answer_metadata: dict[str, str],
        keepalive: float,
    ) -> None:
        """`answer_metadata`: the answer's metadata; the job's id is added. `keepalive`: seconds between updates."""
        self._service = service
        self._submission = submission
        self._context = context
        self._metadata = answer_metadata
        self._keepalive = keepalive
        self._since = time.perf_counter()
        self._client: WaitingCall | None = None
        self._started = self._client_left = self._stopping = False
        self.task = asyncio.create_task(self._work(), name=f"answer {answer_metadata['x-request-id']}")
        self.task.add_done_callback(run_and_discard)

    async def end(self) -> ChatCompletionResponse | None:
        """Waits for the answer's end. Returns the unary answer, or None after a stream.

        Raises the call's error, FollowerClosed if the client has left, and ShuttingDown after `cut_off`.
        """
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self._stopping:
                raise ShuttingDown("This server is shutting down; the call's job runs on.") from None
            self._leave()
            await asyncio.wait([self.task])
            raise

    def cut_off(self) -> None:
        """Ends the call because this process stops; the job runs on."""
        self._stopping = True
        self.task.cancel()

    def _leave(self) -> None:
        self._client_left = True
        if self._client is not None:
            self._client.leave()

    async def _work(self) -> ChatCompletionResponse | None:
        submission = self._submission
        async with waiting(
            self._service, lambda: self._service.call(submission), self.mode, key=submission.principal.key
        ) as client:
            self._client = client
            self._metadata["x-job-id"] = client.job.id
            if self._client_left:
                client.leave()
            return await self._serve(client)
        raise FollowerClosed

    async def _serve(self, client: WaitingCall) -> ChatCompletionResponse | None:
        """Sends the answer and records how the job ended. Raises FollowerClosed when the client has left."""
        raise NotImplementedError

    async def _start(self, client: WaitingCall) -> None:
        if not self._started:
            self._started = True
            taken = {"openai-processing-ms": str(int((time.perf_counter() - self._since) * 1000))}
            metadata = self._metadata | client.begin() | taken | self.rate_limits()
            await unless_disconnected(self._context.send_initial_metadata(tuple(metadata.items())))

    def rate_limits(self) -> dict[str, str]:
        """Returns the metadata with the key's rate limits; empty for a key without limits."""
        meter = self._submission.meter
        return {} if meter is None else meter.headers()


async def unless_disconnected(sending: Awaitable[None]) -> None:
    try:
        await sending
    except grpc.aio.BaseError:  # The client has disconnected.
        raise FollowerClosed from None


class UnaryAnswer(Answer):
    """Returns the completion once the job has ended."""

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
    """Sends a message for each frame of the log. HTTP/2's pings keep an idle call alive."""

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
        await unless_disconnected(self._context.write(chunk_of(data)))


def raise_error(error: Mapping[str, Any] | None) -> None:
    """Raises the error of a job or of a frame, which ends the stream with its gRPC status."""
    if error:
        raise RecordedError(error)
