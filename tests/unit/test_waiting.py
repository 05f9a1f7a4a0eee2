"""How long a call outlives the store: so long after it went away, however long its stream had been running by then."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from producer.jobs.service import Call
from producer.jobs.waiting_call import OUTAGE_PATIENCE, WaitingCall
from shared.errors import BackendUnavailable
from shared.job import JobStatus
from shared.ports import Sink, Update
from tests.contract.performers import new_job
from tests.support.clock import Clock

MORE = Update(b"more", JobStatus.IN_PROGRESS)


@dataclass
class Stage:
    """A follower whose calls end, one after the other, as `plays` say; each may take its time on the clock."""

    clock: Clock
    plays: list[Callable[[Sink | None], Update]]

    async def next(self, timeout: float | None = None, sink: Sink | None = None) -> Update:
        return self.plays.pop(0)(sink)

    def streams_and_fails(self, seconds: float) -> Callable[[Sink | None], Update]:
        """Pieces for so long, and then no answer from the store."""

        def play(sink: Sink | None) -> Update:
            assert sink is not None
            sink(b"piece")
            return self.fails(seconds)(sink)

        return play

    def fails(self, seconds: float) -> Callable[[Sink | None], Update]:
        def play(_: Sink | None) -> Update:
            self.clock.now += seconds
            raise BackendUnavailable("no answer")

        return play


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("producer.jobs.waiting_call.time", SimpleNamespace(monotonic=clock, time=time.time))
    return clock


def told(_: bytes) -> bool:
    return True


def waiting_on(stage: Stage) -> WaitingCall:
    return WaitingCall(cast(Any, None), Call(new_job(), cast(Any, stage)), "stream", patience=None)


async def test_a_long_stream_outlives_an_outage_as_a_short_one_does(clock: Clock) -> None:
    stage = Stage(clock, [])
    stage.plays = [stage.streams_and_fails(10 * OUTAGE_PATIENCE), stage.fails(OUTAGE_PATIENCE / 2), lambda _: MORE]
    assert await waiting_on(stage).next(15.0, told) == MORE


async def test_an_outage_that_lasts_ends_the_wait(clock: Clock) -> None:
    stage = Stage(clock, [])
    stage.plays = [stage.streams_and_fails(60.0), stage.fails(OUTAGE_PATIENCE / 2), stage.fails(OUTAGE_PATIENCE)]
    with pytest.raises(BackendUnavailable):
        await waiting_on(stage).next(15.0, told)
    assert stage.plays == []
