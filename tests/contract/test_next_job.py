"""Tenants take turns: the same ones in every backend, and nothing is lost that is run under another's delivery."""

import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.fairness import FairQueue, entry_of
from shared.job import Job, JobStatus, QueueName, Tier
from shared.ports import Backend, Claim, Ending
from tests.contract.performers import (
    CANCELLED,
    LEASE,
    claimed,
    consume,
    created,
    new_job,
    next_of,
    nothing_comes,
    perform,
    publish,
    record_of,
    some_frames,
    submit,
)
from tests.support.wait_until import wait_until


async def next_job(backend: Backend, job: Job, served: str | None = None, *, fresh: bool = True) -> str:
    other = await backend.scheduler.next_job(job, served=served, fresh=fresh)
    return job.id if other is None else other.id


# ── the rule ──


@dataclass
class Play:
    """A queue's jobs, in a backend and in the rule side by side."""

    backend: Backend
    began_at: float = field(default_factory=time.time)
    queue: QueueName = field(default_factory=lambda: QueueName(f"model-{os.urandom(6).hex()}", Tier.DEFAULT))
    queue_rule: FairQueue = field(default_factory=FairQueue)
    waiting: dict[str, Job] = field(default_factory=dict[str, Job])
    running: dict[str, tuple[Job, Claim]] = field(default_factory=dict[str, tuple[Job, Claim]])
    served: dict[str, str] = field(default_factory=dict[str, str])

    async def submit(self, tenant: str, tokens: int, weight: float, window: float | None) -> None:
        end = None if window is None else self.began_at + window
        job = await created(self.backend, queue=self.queue, tenant=tenant, tokens=tokens, weight=weight, window_end=end)
        self.queue_rule.add(job.id, entry_of(job))
        self.waiting[job.id] = job

    async def take(self, at: int, fairly: bool) -> None:
        """A delivery of some job that waits; with `fairly`, of whoever is next."""
        if not self.waiting:
            return
        job = chosen = list(self.waiting.values())[at % len(self.waiting)]
        if fairly:
            served = self.served.pop(job.id, None)
            found = await next_job(self.backend, job, served)
            assert found == self.queue_rule.next_job(job.id, served)
            self.served[job.id] = found
            if found not in self.waiting:
                return
            chosen = self.waiting[found]
        self.queue_rule.start(chosen.id)
        self.running[chosen.id] = chosen, await claimed(self.backend, chosen)
        del self.waiting[chosen.id]

    async def finish(self, at: int, tokens: int) -> None:
        if self.running:
            job, claim = self.running.pop(list(self.running)[at % len(self.running)])
            ending = Ending(JobStatus.COMPLETED, usage={"total_tokens": tokens})
            await self.backend.store.finish(job.id, claim.attempt, claim.offset, ending)
            self.queue_rule.remove(job.id, tokens)

    async def requeue(self, at: int) -> None:
        if self.running:
            job, claim = self.running.pop(list(self.running)[at % len(self.running)])
            await self.backend.store.release(job.id, claim.attempt, counted=False)
            self.queue_rule.requeue(job.id)
            self.waiting[job.id] = job

    async def cancel(self, at: int) -> None:
        if self.waiting:
            job = self.waiting.pop(list(self.waiting)[at % len(self.waiting)])
            await self.backend.store.cancel(job.id, CANCELLED)
            self.queue_rule.remove(job.id)

    async def expect_positions(self) -> None:
        for job in self.waiting.values():
            assert await self.backend.scheduler.position(job) == self.queue_rule.position(job.id)


PLACES = st.integers(0, 50)
TOKENS = st.integers(1, 5000)
STEPS = st.one_of(
    st.tuples(
        st.just(Play.submit),
        st.sampled_from(["a", "b", "b", "a tenant"]),
        TOKENS,
        st.sampled_from([1.0, 0.3, 3]),
        st.sampled_from([None, None, 60.0, 60.0, 3600.5, 100_000.0]),
    ),
    st.tuples(st.just(Play.take), PLACES, st.sampled_from([True, True, True, False])),
    st.tuples(st.just(Play.finish), PLACES, TOKENS),
    st.tuples(st.just(Play.requeue), PLACES),
    st.tuples(st.just(Play.cancel), PLACES),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=5, max_size=30))
async def test_whose_turn_it_is(backend: Backend, steps: list[tuple[Any, ...]]) -> None:
    play = Play(backend)
    for step, *arguments in steps:
        await step(play, *arguments)
    await play.expect_positions()


async def test_who_is_told_nothing_of_fairness_has_the_order_of_arrival(
    maker: Callable[..., AbstractAsyncContextManager[Backend]],
) -> None:
    async with maker(fair=False) as backend:
        await created(backend, tenant="a")
        job = await created(backend, tenant="a")
        late = await created(backend, tenant="b")
        assert await next_job(backend, job) == job.id
        assert await backend.scheduler.position(late) == 2


# ── piggybacking ──


async def piggybacking(backend: Backend) -> tuple[Job, Job]:
    """A job of one tenant whose delivery is to carry the other tenant's."""
    first = await submit(backend, tenant="a", tokens=1000)
    host = await submit(backend, tenant="a", tokens=100)
    other = await submit(backend, tenant="b", tokens=100)
    await perform(backend, await claimed(backend, first), some_frames(1), Ending(JobStatus.COMPLETED))
    assert await next_job(backend, host) == other.id
    return host, other


async def test_another_replicas_jobs_are_known(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    await claimed(one, await created(one, tenant="a"))
    host = await created(one, tenant="a")
    late = await created(other, tenant="b")
    await wait_until(lambda: next_job_is(one, host, late.id))


async def next_job_is(backend: Backend, job: Job, wanted: str) -> bool:
    assert await next_job(backend, job, fresh=False) == wanted
    return True


async def test_what_a_lost_worker_carried_is_named_to_who_comes_after_it(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    host, piggybacked = await piggybacking(one)
    assert await next_job(other, host) == piggybacked.id, "before it was claimed"
    claim = await claimed(one, piggybacked, "dead")
    assert await next_job(other, host) == piggybacked.id
    again = await claimed(other, piggybacked, "worker-2", lost="dead", with_body=True)
    assert (again.attempt, again.body) == (claim.attempt + 1, b"{}")
    await perform(other, again, some_frames(2))
    assert await next_job(other, host, served=piggybacked.id) == host.id


async def test_what_a_lost_worker_had_finished_is_passed_over(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    host, piggybacked = await piggybacking(one)
    await perform(one, await claimed(one, piggybacked), some_frames(2))
    assert await next_job(other, host) == host.id


async def test_whoever_has_left_has_no_turn(backend: Backend) -> None:
    host, piggybacked = await piggybacking(backend)
    late, later = await created(backend, tenant="b"), await created(backend, tenant="c")
    await backend.store.cancel(piggybacked.id, CANCELLED)
    await backend.store.cancel(late.id, CANCELLED)
    assert await next_job(backend, host) == later.id


async def test_a_job_that_is_handed_back_has_the_next_turn(backend: Backend) -> None:
    host, piggybacked = await piggybacking(backend)
    claim = await claimed(backend, piggybacked)
    await backend.store.release(piggybacked.id, claim.attempt, counted=False)
    assert await next_job(backend, host, served=piggybacked.id) == piggybacked.id


async def test_a_job_that_is_to_wait_has_its_turn_when_it_has_waited(backend: Backend) -> None:
    host, piggybacked = await piggybacking(backend)
    claim = await claimed(backend, piggybacked)
    await backend.store.release(piggybacked.id, claim.attempt, counted=True, after=0.3)
    assert await next_job(backend, host, served=piggybacked.id) == host.id
    await wait_until(lambda: comes_next(backend, piggybacked.id))


async def comes_next(backend: Backend, wanted: str) -> bool:
    """A delivery of one more job whose tenant has had much."""
    assert await next_job(backend, await created(backend, tenant="a", tokens=1000)) == wanted
    return True


async def test_a_job_that_has_waited_is_back_in_line_though_the_one_that_was_delivered_is_not(backend: Backend) -> None:
    queue = QueueName(f"model-{os.urandom(6).hex()}", Tier.DEFAULT)
    late = await created(backend, queue=queue)
    claim = await claimed(backend, late)
    await backend.store.release(late.id, claim.attempt, counted=True, after=0.05)
    await wait_until(lambda: waits_again(backend, late))


async def waits_again(backend: Backend, job: Job) -> bool:
    unknown = new_job(queue=job.queue)
    assert await next_job(backend, unknown) == unknown.id
    return (await backend.scheduler.backlog(job.queue, job.tenant)).jobs == 1


async def test_a_job_tried_again_by_hand_waits_in_line(backend: Backend) -> None:
    host, piggybacked = await piggybacking(backend)
    failed = Ending(JobStatus.FAILED, error={"message": "broken"})
    await perform(backend, await claimed(backend, piggybacked), [], failed)
    assert await backend.store.retry(piggybacked.id, piggybacked.deadline_at)
    assert await next_job(backend, host, served=piggybacked.id) == piggybacked.id


async def test_started_jobs_and_their_tokens_are_counted(backend: Backend) -> None:
    queue = QueueName(f"model-{os.urandom(6).hex()}", Tier.FLEX)
    jobs = [await created(backend, queue=queue, tokens=tokens) for tokens in (7, 30, 500)]
    for job in jobs[:2]:
        await claimed(backend, job)

    async def counted() -> bool:
        backlog = await backend.scheduler.backlog(queue, jobs[0].tenant)
        return (backlog.jobs, backlog.tokens, backlog.started, backlog.started_tokens) == (1, 500, 2, 37)

    await wait_until(counted, "two started jobs")


async def test_a_job_that_is_not_known_is_run_itself(backend: Backend) -> None:
    await piggybacking(backend)
    unknown = new_job(tenant="a")
    assert await next_job(backend, unknown) == unknown.id


# ── the delivery ──


async def test_a_delivery_says_whether_it_may_have_been_in_other_hands(backend: Backend) -> None:
    await publish(backend, new_job())
    async with consume(backend) as consumer:
        assert not (await next_of(consumer)).redelivered
    async with consume(backend) as consumer:
        again = await next_of(consumer)
        assert again.redelivered
        await again.retry()
        assert (await next_of(consumer)).redelivered


async def test_a_delivery_that_waits_on_comes_first_and_says_what_it_served(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    first, second = await publish(one, new_job(), new_job())
    async with consume(one) as consumer:
        delivery = await next_of(consumer)
        assert (delivery.message.job.id, delivery.served) == (first, None)
        await delivery.deliver_again("another")
        async with consume(other) as others:
            assert await nothing_comes(others) or other is one
        again = await next_of(consumer)
        assert (again.message.job.id, again.served) == (first, "another")
        assert (await next_of(consumer)).message.job.id == second


async def test_a_delivery_that_waits_on_in_a_paused_queue_goes_to_others(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    (job_id,) = await publish(one, new_job())
    async with consume(one) as consumer:
        delivery = await next_of(consumer)
        await consumer.pause()
        await delivery.deliver_again("another")
        async with consume(other) as others:
            assert (await next_of(others)).message.job.id == job_id


async def test_a_carried_job_that_lives_is_not_claimed_twice(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    host, piggybacked = await piggybacking(one)
    await claimed(one, piggybacked, "worker-1")
    assert await next_job(other, host) == piggybacked.id
    assert not isinstance(await other.store.claim(piggybacked.id, "worker-2", LEASE), Claim)
    assert await next_job(other, host, served=piggybacked.id) == host.id


# ── windows ──


async def test_a_tenants_job_with_the_earlier_window_runs_under_the_delivery_of_another(
    replicas: tuple[Backend, Backend],
) -> None:
    one, other = replicas
    host = await submit(one, window_end=time.time() + 86_400)
    urgent = await submit(other, window_end=time.time() + 60)
    await wait_until(lambda: next_job_is(one, host, urgent.id))
    await perform(one, await claimed(one, urgent), some_frames(1), Ending(JobStatus.COMPLETED))
    assert await next_job(other, host, served=urgent.id) == host.id


async def test_a_window_outlives_the_process(maker: Callable[..., AbstractAsyncContextManager[Backend]]) -> None:
    async with maker() as backend:
        job = await created(backend, window_end=1_900_000_000.25)
        assert (await record_of(backend, job.id)).window_end == 1_900_000_000.25
