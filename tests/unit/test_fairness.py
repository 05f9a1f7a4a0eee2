"""Whose job is next: the rule of shared/fairness.py."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fairness import UNWINDOWED, Entry, FairQueue, deadline_of
from tests.support.clock import Clock

TOKENS = st.integers(1, 5000)
WEIGHTS = st.sampled_from([0.5, 1.0, 2.0, 3.0])


class Queue:
    """A line, and the broker's queue beside it, which delivers each message until its job is over."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.line = FairQueue(self.clock)
        self.messages: list[str] = []
        self.tenant_of: dict[str, str] = {}
        self.served: dict[str, str] = {}
        self.over: set[str] = set()

    def submit(self, tenant: str, tokens: int = 100, weight: float = 1.0, window: float | None = None) -> str:
        """`window`: seconds from now."""
        job_id = f"job-{len(self.tenant_of):06d}"
        self.tenant_of[job_id] = tenant
        self.messages.append(job_id)
        now = self.clock.now
        order = deadline_of(None if window is None else now + window, now)
        self.line.add(job_id, Entry(tenant, tokens, weight, *order))
        return job_id

    def next(self) -> str:
        """The next job to run, under the delivery at the head."""
        while self.messages[0] in self.over:
            del self.messages[0]
        carrier = self.messages[0]
        chosen = self.line.next_job(carrier, self.served.pop(carrier, None))
        if chosen != carrier:
            self.served[carrier] = chosen
        return chosen

    def run(self, tokens: int | None = None) -> str:
        job_id = self.next()
        self.end(job_id, tokens)
        return job_id

    def end(self, job_id: str, tokens: int | None = None) -> None:
        self.line.remove(job_id, tokens)
        self.over.add(job_id)


def test_alone_a_tenants_jobs_are_run_in_their_order() -> None:
    queue = Queue()
    jobs = [queue.submit("a") for _ in range(5)]
    assert [queue.run() for _ in jobs] == jobs


def test_one_job_of_another_does_not_wait_behind_ten_thousand() -> None:
    queue = Queue()
    for _ in range(10_000):
        queue.submit("a")
    running = [queue.next() for _ in range(1)]
    late = queue.submit("b")
    queue.end(running[0])
    assert queue.next() == late


def test_two_backlogs_take_turns() -> None:
    queue = Queue()
    for tenant in "aaaaaaaabbbbbbbb":
        queue.submit(tenant)
    served = "".join(queue.tenant_of[queue.run()] for _ in range(16))
    assert all(abs(served[:end].count("a") - served[:end].count("b")) <= 1 for end in range(17)), served


def test_a_tenant_with_more_weight_has_more_turns() -> None:
    queue = Queue()
    for _ in range(300):
        queue.submit("light")
        queue.submit("heavy", weight=3.0)
    served = Counter(queue.tenant_of[queue.run()] for _ in range(200))
    assert served["heavy"] == pytest.approx(150, abs=2)


def test_small_jobs_have_more_turns_than_large_ones() -> None:
    queue = Queue()
    for _ in range(200):
        queue.submit("large", tokens=1000)
        queue.submit("small", tokens=100)
    served = Counter(queue.tenant_of[queue.run()] for _ in range(110))
    assert served["small"] == pytest.approx(100, abs=2)


def test_what_was_used_counts_and_not_what_was_estimated() -> None:
    queue = Queue()
    for _ in range(200):
        queue.submit("frugal", tokens=1000)
        queue.submit("exact", tokens=100)
    served = Counter(queue.tenant_of[queue.run(tokens=100)] for _ in range(100))
    assert served["frugal"] == pytest.approx(50, abs=6)


def test_idleness_earns_nothing() -> None:
    queue = Queue()
    for _ in range(100):
        queue.submit("a")
    for _ in range(50):
        queue.run()
    for _ in range(50):
        queue.submit("b")
    served = Counter(queue.tenant_of[queue.run()] for _ in range(20))
    assert abs(served["a"] - served["b"]) <= 1


def test_debts_end_with_the_busy_period() -> None:
    queue = Queue()
    queue.submit("a", tokens=1_000_000)
    queue.run()
    queue.submit("a")
    first, second = queue.submit("b"), queue.submit("b")
    assert queue.tenant_of[queue.run()] == "a"
    assert [queue.run(), queue.run()] == [first, second]


def test_what_a_delivery_carries_is_named_until_it_is_told_as_served() -> None:
    queue = Queue()
    queue.submit("a", tokens=1000)
    carrier, late = queue.submit("a"), queue.submit("b")
    queue.end(queue.next())
    assert queue.line.next_job(carrier) == late
    assert queue.line.next_job(carrier) == late, "a worker died"
    assert queue.line.next_job(carrier, "another") == late
    assert queue.line.next_job(carrier, late) == carrier


def test_a_job_that_failed_waits_out_of_line_until_it_is_due() -> None:
    queue = Queue()
    failed, *_ = [queue.submit("b"), *(queue.submit("a") for _ in range(9))]
    assert queue.next() == failed
    queue.line.requeue(failed, due=10.0)
    queue.messages.remove(failed)
    assert "b" not in {queue.tenant_of[queue.run()] for _ in range(3)}
    queue.clock.now = 10.0
    assert failed in {queue.run(), queue.run()}


@given(st.lists(st.tuples(st.sampled_from("abc"), TOKENS, WEIGHTS), max_size=60), st.data())
def test_every_job_is_run_once_and_each_tenants_in_order(
    submits: list[tuple[str, int, float]], data: st.DataObject
) -> None:
    queue, ran = Queue(), list[str]()
    for tenant, tokens, weight in submits:
        queue.submit(tenant, tokens, weight)
        if data.draw(st.booleans()) and len(ran) < len(queue.tenant_of):
            ran.append(queue.run(data.draw(st.none() | TOKENS)))
    while len(ran) < len(submits):
        ran.append(queue.run())
    assert sorted(ran) == sorted(queue.tenant_of)
    for tenant in "abc":
        mine = [job_id for job_id in ran if queue.tenant_of[job_id] == tenant]
        assert mine == sorted(mine)
    assert (queue.line.jobs, queue.line.tokens, list(queue.line.tenants)) == (0, 0, [])


@given(
    st.lists(st.tuples(TOKENS, TOKENS), min_size=20, max_size=60),
    WEIGHTS,
    WEIGHTS,
)
def test_while_both_wait_neither_gets_ahead_by_more_than_a_job_each(
    sizes: list[tuple[int, int]], weight_a: float, weight_b: float
) -> None:
    queue = Queue()
    weights = {"a": weight_a, "b": weight_b}
    tokens: dict[str, int] = {}
    for mine, others in sizes:
        tokens[queue.submit("a", mine, weight_a)] = mine
        tokens[queue.submit("b", others, weight_b)] = others
    share = {"a": 0.0, "b": 0.0}
    bound = sum(max(tokens[job] for job in tokens if queue.tenant_of[job] == each) / weights[each] for each in "ab")
    while queue.line.jobs_of("a") and queue.line.jobs_of("b"):
        job_id = queue.run()
        share[queue.tenant_of[job_id]] += tokens[job_id] / weights[queue.tenant_of[job_id]]
        assert abs(share["a"] - share["b"]) <= bound + 1e-6


@given(st.lists(st.tuples(st.sampled_from("abc"), st.just(100)), min_size=1, max_size=30))
def test_positions_are_the_order_of_running_where_jobs_are_alike(submits: list[tuple[str, int]]) -> None:
    queue = Queue()
    for tenant, tokens in submits:
        queue.submit(tenant, tokens)
    told = {job_id: queue.line.position(job_id) for job_id in queue.tenant_of}
    for rank in range(len(submits)):
        expected = told[queue.run()]
        assert expected is not None
        assert abs(expected - rank) <= 2, "tenants that are level come in any order"


# ── windows ──


def test_a_small_batch_with_a_short_window_goes_before_the_rest_of_large_ones() -> None:
    queue = Queue()
    large = [queue.submit("a", window=86_400) for _ in range(100)]
    assert [queue.run() for _ in range(3)] == large[:3]
    small = [queue.submit("a", window=60) for _ in range(5)]
    assert [queue.run() for _ in range(6)] == [*small, large[3]]


def test_jobs_without_windows_keep_their_order_behind_shorter_windows() -> None:
    queue = Queue()
    plain = [queue.submit("a") for _ in range(3)]
    windowed = queue.submit("a", window=UNWINDOWED - 1)
    assert [queue.run() for _ in range(4)] == [windowed, *plain]


def test_a_stream_of_later_windows_does_not_starve_a_job_without_one() -> None:
    queue = Queue()
    plain = queue.submit("a")
    for _ in range(3):
        queue.clock.now += UNWINDOWED / 2
        queue.submit("a", window=UNWINDOWED * 0.8)
    assert plain in {queue.run(), queue.run()}


def test_a_short_window_gives_a_tenant_no_larger_share() -> None:
    queue = Queue()
    for _ in range(300):
        queue.submit("urgent", window=1.0)
        queue.submit("patient", window=86_400)
        queue.submit("plain")
    served = Counter(queue.tenant_of[queue.run()] for _ in range(300))
    assert all(count == pytest.approx(100, abs=2) for count in served.values()), served


UNIT_JOBS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 25)), min_size=1, max_size=30)
"""(when it arrives, how long after that it is due) of jobs that each take a slot for one unit of time."""


@given(UNIT_JOBS)
def test_no_window_is_missed_that_another_order_would_keep(jobs: list[tuple[int, int]]) -> None:
    queue, ends = Queue(), dict[str, int]()
    waiting = sorted(jobs)
    while waiting or len(queue.over) < len(ends):
        while waiting and waiting[0][0] <= queue.clock.now:
            _, window = waiting.pop(0)
            ends[queue.submit("a", window=window)] = int(queue.clock.now) + window
        late = queue.run() if len(queue.over) < len(ends) else None
        queue.clock.now += 1
        if late is not None and queue.clock.now > ends[late]:
            assert not all_can_be_kept(jobs)
            return


def all_can_be_kept(jobs: list[tuple[int, int]]) -> bool:
    """Hall's condition for unit jobs on one slot: no span of time has more jobs that lie within it than units."""
    spans = [(arrival, arrival + window) for arrival, window in jobs]
    return all(
        sum(begin <= arrival and due <= end for arrival, due in spans) <= end - begin
        for begin in {arrival for arrival, _ in spans}
        for end in {due for _, due in spans}
        if begin < end
    )
