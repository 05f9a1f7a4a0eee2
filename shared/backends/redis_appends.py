"""Appends to many logs in one step: what a worker's jobs say within one round trip to Redis costs one script call, and
the replicas that listen hear one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from shared.backends import redis_keys as keys
from shared.backends.redis import Pipeline, script
from shared.backends.redis_pipeline import Argument, Command
from shared.backends.redis_store import raise_if_refused
from shared.frames import count_frames

MOST = 128
"""Appends in one step: Redis serves nobody else meanwhile, for about a millisecond."""


class Appends:
    """`together`: whether logs of different jobs may share a step."""

    def __init__(self, pipeline: Pipeline, *, together: bool = True) -> None:
        self._redis = pipeline
        self._most = MOST if together else 1
        self._open: AppendStep | None = None

    def add(self, job_id: str, attempt: int, offset: int, frames: bytes, *, patient: bool) -> asyncio.Future[None]:
        step = self._open
        if step is None or step.sent or len(step) >= self._most:
            step = self._open = AppendStep()
            self._redis.later(step.command, step.settle, patient=patient).add_done_callback(step.failed)
        elif not patient:
            self._redis.hurry()
        return step.add(job_id, attempt, offset, frames)


class AppendStep:
    """Takes appends until it is sent."""

    def __init__(self) -> None:
        self.sent = False
        self._keys: list[str] = []
        self._arguments: list[Argument] = []
        self._futures: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._futures)

    def add(self, job_id: str, attempt: int, offset: int, frames: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keys += keys.of_job(job_id)[:2]
        self._arguments += (job_id, attempt, offset, frames, count_frames(frames))
        self._futures.append(future)
        return future

    def command(self) -> Command:
        self.sent = True
        return ("EVALSHA", script("append").sha, len(self._keys), *self._keys, *self._arguments)

    def settle(self, answers: Sequence[Any]) -> None:
        """Each append has an answer of its own: 1, or a refusal."""
        for future, answer in zip(self._futures, answers, strict=True):
            if future.done():
                continue
            if answer == 1:
                future.set_result(None)
                continue
            try:
                raise_if_refused(answer)
            except Exception as refusal:
                future.set_exception(refusal)

    def failed(self, step: asyncio.Future[Any]) -> None:
        """A done callback: where the step had no answer, none of its appends has."""
        error = None if step.cancelled() else step.exception()
        for future in self._futures:
            if future.done():
                continue
            if error is None:
                future.cancel()
            else:
                future.set_exception(error)
