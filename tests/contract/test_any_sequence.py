"""Any sequence of steps on one job: a backend does what a few lines of Python say; an illegal step does nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.job import ENDINGS, TERMINAL, IllegalTransition, JobEvent, JobStatus, advance
from shared.ports import AttemptFenced, Backend, Claim, Ending, LogShorter, NotClaimed
from tests.contract.performers import LEASE, a_worker, created, follow_to_end, read_to_end

LIVING, DEAD = "living", "dead"
OWNERS = (LIVING, DEAD)

Outcome = object
FENCED, GAP, DONE = "fenced", "gap", "done"


@dataclass(frozen=True)
class State:
    """The job as the table and the claim's rules have it. Every move answers the outcome and the state after it."""

    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0
    tries: int = 0
    lost: int = 0
    base: int = 0
    owner: str | None = None
    cancelling: bool = False
    log: bytes = b""
    retried: bool = False

    def claim(self, owner: str, lost: str | None) -> tuple[Outcome, "State"]:
        try:
            status = advance(self.status, JobEvent.CLAIM)
        except IllegalTransition:
            return (self.status, None, False), self
        if self.cancelling:
            return (self.status, self.owner, True), self
        if self.owner not in (None, lost, owner):
            return (self.status, self.owner, False), self
        tries, lost = self._blame(owner)
        size = len(self.log)
        after = replace(self, status=status, attempt=self.attempt + 1, tries=tries, lost=lost, base=size, owner=owner)
        return (after.attempt, tries, lost, size), after

    def _blame(self, owner: str) -> tuple[int, int]:
        if self.owner in (None, owner):
            return self.tries, self.lost
        return (self.tries, 0) if len(self.log) > self.base else (self.tries + 1, self.lost + 1)

    def renew(self, attempt: int) -> tuple[Outcome, "State"]:
        return (DONE if self._runs(attempt) and not self.cancelling else FENCED), self

    def append(self, attempt: int, offset: int, data: bytes) -> tuple[Outcome, "State"]:
        if not self._runs(attempt) or self.cancelling:
            return FENCED, self
        return self._extended(offset, data)

    def release(self, attempt: int, counted: bool) -> tuple[Outcome, "State"]:
        if not self._runs(attempt):
            return FENCED, self
        status = advance(self.status, JobEvent.RELEASE)
        return DONE, replace(self, status=status, owner=None, tries=self.tries + counted)

    def finish(self, attempt: int, offset: int, ending: Ending) -> tuple[Outcome, "State"]:
        if self.attempt == attempt and self.status is ending.status:
            return DONE, self
        if not self._runs(attempt):
            return FENCED, self
        outcome, after = self._extended(offset, ending.frames) if ending.frames else (DONE, self)
        return outcome, after._over(ending) if outcome is DONE else self

    def end_unclaimed(self, ending: Ending, owner: str | None) -> tuple[Outcome, "State"]:
        try:
            advance(self.status, ENDINGS[ending.status])
        except IllegalTransition:
            return False, self
        if self.owner not in (None, owner):
            return False, self
        return True, replace(self, log=self.log + ending.frames)._over(ending)

    def cancel(self, ending: Ending) -> tuple[Outcome, "State"]:
        if self.status in TERMINAL:
            return DONE, self
        if self.owner == LIVING:
            return DONE, replace(self, cancelling=True)
        return DONE, replace(self, log=self.log + ending.frames)._over(ending)

    def retry(self) -> tuple[Outcome, "State"]:
        if self.status is not JobStatus.FAILED:
            return False, self
        return True, replace(self, status=JobStatus.QUEUED, log=b"", tries=0, lost=0, retried=True)

    def _runs(self, attempt: int) -> bool:
        return self.status is JobStatus.IN_PROGRESS and self.attempt == attempt

    def _extended(self, offset: int, data: bytes) -> tuple[Outcome, "State"]:
        if offset > len(self.log):
            return GAP, self
        return DONE, replace(self, log=self.log + data[len(self.log) - offset :])

    def _over(self, ending: Ending) -> "State":
        return replace(self, status=ending.status, owner=None, cancelling=False)


@dataclass(frozen=True)
class Move:
    """A step by its name. `behind` and `beyond` are counted from the present attempt and the log's end."""

    name: str
    owner: str
    other: str | None
    behind: int
    beyond: int
    data: bytes
    ending: Ending

    def expected(self, state: State) -> tuple[Outcome, State]:
        attempt, offset = self._attempt(state), self._offset(state)
        moves: dict[str, Callable[[], tuple[Outcome, State]]] = {
            "claim": lambda: state.claim(self.owner, self.other),
            "renew": lambda: state.renew(attempt),
            "append": lambda: state.append(attempt, offset, self._data(state)),
            "release": lambda: state.release(attempt, self.owner == DEAD),
            "finish": lambda: state.finish(attempt, len(state.log) + self.beyond // 2, self.ending),
            "end_unclaimed": lambda: state.end_unclaimed(self.ending, self.other),
            "cancel": lambda: state.cancel(self._cancelled()),
            "retry": state.retry,
        }
        return moves[self.name]()

    async def made(self, backend: Backend, job_id: str, state: State) -> Outcome:
        try:
            return await self._make(backend, job_id, state)
        except AttemptFenced:
            return FENCED
        except LogShorter:
            return GAP

    async def _make(self, backend: Backend, job_id: str, state: State) -> Outcome:
        attempt, offset, store = self._attempt(state), self._offset(state), backend.store
        match self.name:
            case "claim":
                return seen(await store.claim(job_id, self.owner, LEASE, lost=self.other))
            case "renew":
                await store.renew(job_id, attempt, LEASE)
            case "append":
                await backend.log.append(job_id, attempt, offset, self._data(state))
            case "release":
                await store.release(job_id, attempt, counted=self.owner == DEAD)
            case "finish":
                await store.finish(job_id, attempt, len(state.log) + self.beyond // 2, self.ending)
            case "end_unclaimed":
                return await store.end_unclaimed(job_id, self.ending, owner=self.other)
            case "retry":
                return await store.retry(job_id, time.time() + 600.0)
            case _:
                await store.cancel(job_id, self._cancelled())
        return DONE

    def _attempt(self, state: State) -> int:
        return state.attempt - self.behind

    def _offset(self, state: State) -> int:
        return max(0, len(state.log) + self.beyond)

    def _cancelled(self) -> Ending:
        return replace(self.ending, status=JobStatus.CANCELLED)

    def _data(self, state: State) -> bytes:
        """What a worker sends again is what it sent before."""
        return state.log[self._offset(state) :] + self.data


def seen(outcome: Claim | NotClaimed) -> Outcome:
    if isinstance(outcome, Claim):
        return outcome.attempt, outcome.tries, outcome.lost, outcome.offset
    return outcome.status, outcome.owner, outcome.cancelling


def endings() -> st.SearchStrategy[Ending]:
    return st.builds(Ending, st.sampled_from(sorted(TERMINAL)), st.sampled_from([b"", b"data: [DONE]\n\n"]))


MOVES = st.builds(
    Move,
    name=st.sampled_from(
        ["claim", "claim", "append", "append", "renew", "release", "finish", "end_unclaimed", "cancel", "retry"]
    ),
    owner=st.sampled_from(OWNERS),
    other=st.sampled_from([*OWNERS, None]),
    behind=st.sampled_from([0, 0, 0, 0, 1]),
    beyond=st.sampled_from([0, 0, 0, -5, 1, 2]),
    data=st.sampled_from([b"data: 1\n\n", b"data: two\n\ndata: three\n\n"]),
    ending=endings(),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(moves=st.lists(MOVES, min_size=1, max_size=12))
async def test_any_sequence_of_steps(backend: Backend, moves: list[Move]) -> None:
    job, state = await created(backend), State()
    async with backend.registry.join(a_worker(LIVING)), backend.log.follow(job.id) as follower:
        for move in moves:
            expected, after = move.expected(state)
            assert await move.made(backend, job.id, state) == expected, (move, state)
            state = after
            await expect_record(backend, job.id, state)
        if state.status in TERMINAL:
            stories = [await follow_to_end(backend, job.id)]
            if not state.retried:  # A follower from before tells how it ended then.
                stories.append(await read_to_end(follower))
            assert {(story.data, story.ending.status) for story in stories} == {(state.log, state.status)}


async def expect_record(backend: Backend, job_id: str, state: State) -> None:
    record = await backend.store.get(job_id)
    assert record is not None
    found = (record.status, record.attempt, record.tries, record.owner)
    assert found == (state.status, state.attempt, state.tries, state.owner)
    assert await backend.log.read(job_id) == state.log
