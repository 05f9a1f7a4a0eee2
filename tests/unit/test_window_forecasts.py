"""When batches end: the fluid of producer/batches/windows.py against the fair queue itself, and the measured rate."""

import heapq
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from producer.batches.throughput import RECENT, Throughput
from producer.batches.windows import Work, broken_by, can_be_kept, finishes, shortest_window
from shared.fairness import Entry, FairQueue
from shared.ports import Backlog
from tests.support.clock import Clock

TOKENS, SECONDS, SLOTS = 100, 1.0, 4
RATE = SLOTS * TOKENS / SECONDS

TENANTS = {"a": 1.0, "b": 1.0, "c": 3.0}
BATCHES = st.lists(
    st.tuples(st.sampled_from(sorted(TENANTS)), st.integers(60, 300), st.integers(1, 6)), min_size=1, max_size=6
)
OWN = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 60)), max_size=6)


def works_of(batches: list[tuple[str, int, int]]) -> list[Work]:
    """No two windows end together: the fair queue may start jobs with equal deadlines in any order."""
    return [
        Work(f"batch-{at}", tenant, jobs * TOKENS, window * 1000 + at, TENANTS[tenant])
        for at, (tenant, jobs, window) in enumerate(batches)
    ]


def simulated(works: list[Work]) -> dict[str, float]:
    """Runs all jobs through the fair queue with SLOTS slots; returns the end of each batch's last job."""
    queue, messages, now = FairQueue(), list[str](), 0.0
    ends, running = dict[str, float](), list[tuple[float, str, int]]()
    for work in works:
        for number in range(int(work.tokens) // TOKENS):
            job_id = f"{work.id} {number:06d}"
            queue.add(job_id, Entry(work.tenant, TOKENS, work.weight, work.window_end, windowed=True))
            messages.append(job_id)
    waiting, started = iter(messages), set[str]()
    held: list[list[str]] = [[] for _ in range(SLOTS)]

    def begin(slot: int) -> None:
        """Starts the slot's next job: under the delivery that it holds, or under the next one."""
        carrier, served = held[slot] or (next(waiting, None), None)
        while carrier is not None:
            chosen = carrier if carrier in started else queue.next_job(carrier, served)
            if chosen not in started:
                started.add(chosen)
                held[slot] = [carrier, chosen] if chosen != carrier else []
                heapq.heappush(running, (now + SECONDS, chosen, slot))
                return
            carrier, served = next(waiting, None), None

    for slot in range(SLOTS):
        begin(slot)
    while running:
        now, done, slot = heapq.heappop(running)
        queue.remove(done, TOKENS)
        ends[done.split()[0]] = now
        begin(slot)
    assert len(started) == len(messages)
    return ends


@settings(max_examples=25, deadline=None)
@given(BATCHES)
def test_the_forecast_is_within_15_percent_of_what_the_fair_queue_does(batches: list[tuple[str, int, int]]) -> None:
    works = works_of(batches)
    predicted, real = finishes(works, RATE), simulated(works)
    for work in works:
        assert abs(predicted[work.id] - real[work.id]) <= 0.15 * real[work.id] + SECONDS, (work, predicted, real)


@given(OWN, st.integers(1, 50))
def test_the_shortest_window_is_kept_and_no_shorter_one_is(own: list[tuple[int, int]], tokens: int) -> None:
    works = [Work(f"w{at}", "a", size, window) for at, (size, window) in enumerate(own)]
    other = Work("other", "b", 40, 60)
    new = Work("new", "a", tokens, 0)
    shortest = shortest_window(new, [*works, other], 2.0)
    if math.isinf(shortest):
        # Work that can never be ended does not occur at a rate above 0: some place is always last.
        assert broken_by(Work("new", "a", tokens, 10_000), [*works, other], 2.0) != []
        return
    assert can_be_kept(Work("new", "a", tokens, shortest), [*works, other], 2.0)
    for window in range(1, int(shortest)):
        assert not can_be_kept(Work("new", "a", tokens, window), [*works, other], 2.0), (window, shortest)


def test_a_tenant_waits_for_its_share_only_and_a_short_window_goes_first() -> None:
    day = Work("day", "a", 1000, 86_400)
    minute = Work("minute", "a", 100, 60)
    other = Work("other", "b", 100, 86_400)
    found = finishes([day, minute, other], 10.0)
    assert (found["minute"], found["other"], found["day"]) == (20.0, 20.0, 120.0)
    assert finishes([day], 0.0) == {"day": math.inf}


def test_a_window_that_breaks_a_kept_one_of_the_tenant_is_not_kept() -> None:
    accepted = Work("accepted", "a", 90, 10)
    assert broken_by(Work("new", "a", 20, 5), [accepted], 10.0) == ["accepted"]
    assert broken_by(Work("new", "b", 20, 5), [accepted], 10.0) == []
    assert shortest_window(Work("new", "a", 20, 5), [accepted], 10.0) == 11.0
    late = Work("late", "a", 200, 10)
    assert broken_by(Work("new", "a", 20, 5), [late], 10.0) == [], "it was late before"


def counts(started: int, *, jobs: int = 5, tokens: int | None = None) -> Backlog:
    return Backlog(jobs, jobs * 10, 1, jobs, started, started * 10 if tokens is None else tokens)


def test_the_rate_is_measured_while_jobs_wait_and_only_then() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    assert (throughput.rate("q"), throughput.confidence("q")) == (None, "none")
    throughput.observe("q", counts(0, jobs=0))
    clock.now += 100
    throughput.observe("q", counts(50))
    assert throughput.rate("q") is None, "that interval showed how fast jobs arrived"
    for _ in range(5):
        clock.now += 1
        throughput.observe("q", counts(55))
        clock.now += 1
        throughput.observe("q", counts(60))
        throughput.observe("q", counts(60))
    assert throughput.confidence("q") == "low"
    for started in range(64, 104, 4):
        clock.now += 1
        throughput.observe("q", counts(started))
    assert throughput.confidence("q") == "high"
    assert 10 < (throughput.rate("q") or 0) < 45
    clock.now += RECENT + 1
    assert throughput.confidence("q") == "low"
    throughput.observe("q", counts(1))
    assert throughput.confidence("q") == "none", "the store has lost its counts"
