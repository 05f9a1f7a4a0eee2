"""Appends that share a step: each hears of what came of it, whatever became of the step."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from shared.backends.redis.connection.gathering import Command
from shared.backends.redis.connection.pipeline import ServerPipeline
from shared.backends.redis.jobs.appends import Appends
from shared.errors import BackendUnavailable
from tests.support.wait_until import wait_until


class Redis:
    """Stands still for its first round trip, and then takes everything."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Command]] = []
        self.silent = asyncio.Event()

    async def exchange(self, commands: Sequence[Command]) -> Sequence[Any]:
        self.asked.append(commands)
        if len(self.asked) == 1:
            await self.silent.wait()
            raise BackendUnavailable("no answer")
        return [[1] for _ in commands]


async def test_a_step_that_was_given_up_before_it_was_sent_takes_no_more_appends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.backends.redis.connection.gathering.ANSWER_TIMEOUT", 0.0)
    redis = Redis()
    appends = Appends(ServerPipeline(redis.exchange))
    sent = appends.add("a", 1, 8, b"data: 1\n\n", batchable=True)
    await wait_until(lambda: redis.asked, "the first round trip")
    waits = appends.add("b", 1, 8, b"data: 1\n\n", batchable=True)
    redis.silent.set()
    for refused in (sent, waits):
        with pytest.raises(BackendUnavailable):
            await refused
    async with asyncio.timeout(5):
        await appends.add("b", 1, 8, b"data: 1\n\n", batchable=True)
