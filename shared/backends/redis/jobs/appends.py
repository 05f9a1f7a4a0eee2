"""Appends to several logs in one step. The frames that a worker sends in one round trip need one script call, and one
pub/sub message for each replica that follows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from shared.backends.redis import keys, lua_steps
from shared.backends.redis.connection.gathering import Argument, Command, Gathering
from shared.backends.redis.connection.pipeline import Pipeline
from shared.backends.redis.connection.scripts import LuaStep
from shared.backends.redis.refusals import raise_if_refused
from shared.frames import count_frames
from shared.ports import Progress

MOST = 128
"""Most appends in one step, which blocks Redis for about a millisecond."""

ELSEWHERE = b"elsewhere"
"""The answer of a cluster's node for a log that is on another node."""


class Append(NamedTuple):
    job_id: str
    arguments: tuple[Argument, ...]
    future: asyncio.Future[None]


class Appends:
    """Collects appends into one step for each server. An append whose log a cluster has moved meanwhile is repeated in
    a step of its own; a repeated append is harmless.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._redis = pipeline
        self._open: dict[Gathering, AppendStep] = {}

    def add(
        self,
        job_id: str,
        attempt: int,
        offset: int,
        frames: bytes,
        progress: Progress | None = None,
        *,
        batchable: bool,
    ) -> asyncio.Future[None]:
        server = self._redis.at(keys.job(job_id))
        step = self._open.get(server)
        if step is None or not step.open or len(step) >= MOST:
            step = self._open[server] = AppendStep(self._redis)
            server.send(step.command, read=step.resolve_all, batchable=batchable).add_done_callback(step.failed)
        elif not batchable:
            server.flush()
        return step.add(job_id, attempt, offset, frames, progress)


class AppendStep:
    """A step that accepts appends while it is `open`: until it is sent, or has failed because the server is silent."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.open = True
        self._redis = pipeline
        self._appends: list[Append] = []

    def __len__(self) -> int:
        return len(self._appends)

    def add(
        self, job_id: str, attempt: int, offset: int, frames: bytes, progress: Progress | None
    ) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        arguments = lua_steps.append_arguments(
            job_id,
            attempt=attempt,
            offset=offset,
            frames=frames,
            frame_count=count_frames(frames),
            progress=progress,
        )
        self._appends.append(Append(job_id, arguments, future))
        return future

    def command(self) -> Command:
        """Builds the step. In a cluster it names the keys of the first append only, because a step may not name keys of
        two slots.
        """
        self.open = False
        declared = self._appends[:1] if self._redis.spread else self._appends
        names = [name for append in declared for name in keys.of_job(append.job_id)[:2]]
        arguments = chain.from_iterable(append.arguments for append in self._appends)
        return LuaStep("append", names, tuple(arguments)).command

    def resolve_all(self, answers: Sequence[Any]) -> None:
        """Resolves the future of each append with its own answer: 1, or a refusal."""
        for append, answer in zip(self._appends, answers, strict=True):
            if answer != 1 and answer[0] == ELSEWHERE:
                alone = self._redis.step(lua_steps.append(append.job_id, append.arguments), read=raise_single_refusal)
                alone.add_done_callback(partial(copy_outcome, append.future))
            else:
                resolve(append.future, answer)

    def failed(self, step: asyncio.Future[Any]) -> None:
        """A done callback. If the step failed, all its appends fail."""
        self.open = False
        if step.cancelled() or step.exception() is not None:
            for append in self._appends:
                copy_outcome(append.future, step)


def resolve(future: asyncio.Future[None], answer: Any) -> None:
    if future.done():
        return
    try:
        if answer != 1:
            raise_if_refused(answer)
        future.set_result(None)
    except Exception as refusal:
        future.set_exception(refusal)


def raise_single_refusal(answers: Sequence[Any]) -> None:
    """Reads the answer of a step with a single append; raises its refusal."""
    if answers[0] != 1:
        raise_if_refused(answers[0])


def copy_outcome(future: asyncio.Future[None], done: asyncio.Future[Any]) -> None:
    """A done callback that copies the outcome of `done` to `future`."""
    if future.done():
        return
    if done.cancelled():
        future.cancel()
    elif (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(None)
