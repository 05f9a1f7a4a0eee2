"""What keys with limits have used, counted once for all replicas."""

import asyncio
import time

from shared.limits import Limits, Verdict, lines_of
from shared.ports import Backend
from tests.support.wait_until import wait_until

KEY = "key_1"
HOUR = 3600.0
QUICK = 60_000
"""A minute's limit of which one comes back every millisecond."""


async def take(
    backend: Backend, limits: Limits, job: str, tokens: int = 0, *, key: str = KEY, lasts: float = HOUR
) -> Verdict:
    return await backend.limiter.take(key, limits, job, tokens=tokens, until=time.time() + lasts)


async def test_requests_are_counted_over_all_replicas(replicas: tuple[Backend, Backend]) -> None:
    limits = Limits(requests_per_minute=3)
    verdicts = [await take(replicas[number % 2], limits, f"job-{number}") for number in range(4)]
    assert [verdict.refused for verdict in verdicts] == [None, None, None, "requests"]
    assert 2.9 < verdicts[-1].usage.requests <= 3
    assert (await take(replicas[0], limits, "job-9", key="key_2")).refused is None


async def test_of_many_at_once_as_many_get_in_as_there_is_room_for(replicas: tuple[Backend, Backend]) -> None:
    limits = Limits(concurrency=7)
    verdicts = await asyncio.gather(*(take(replicas[number % 2], limits, f"job-{number}") for number in range(40)))
    assert sum(verdict.refused is None for verdict in verdicts) == 7
    assert {verdict.refused for verdict in verdicts} == {None, "concurrency"}


async def test_what_was_used_comes_back_with_time(backend: Backend) -> None:
    limits = Limits(requests_per_minute=QUICK, tokens_per_minute=QUICK)
    assert (await take(backend, limits, "job-1", QUICK)).refused is None
    assert (await take(backend, limits, "job-2", QUICK // 2)).refused == "tokens"

    async def fits() -> bool:
        return (await take(backend, limits, "job-2", 50)).refused is None

    await wait_until(fits, "50 tokens to have come back")


async def test_a_refusal_uses_nothing(backend: Backend) -> None:
    limits = Limits(requests_per_minute=2, tokens_per_minute=100, concurrency=5)
    await take(backend, limits, "job-1", 60)
    for number in range(5):
        assert (await take(backend, limits, f"more-{number}", 60)).refused == "tokens"
    verdict = await take(backend, limits, "job-2", 40)
    assert (verdict.refused, verdict.usage.open_jobs) == (None, 2)
    assert (await take(backend, limits, "job-3")).refused == "requests"


async def test_a_take_may_be_repeated(backend: Backend) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=100, concurrency=1)
    first = await take(backend, limits, "job-1", 100)
    again = await take(backend, limits, "job-1", 100)
    assert (first.refused, again.refused) == (None, None)
    assert again.usage.requests <= 1
    assert (again.usage.tokens <= 100, again.usage.open_jobs) == (True, 1)


async def test_an_end_frees_the_slot_and_corrects_the_estimate(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    limits = Limits(tokens_per_minute=100, concurrency=1)
    await take(one, limits, "job-1", 100)
    await other.limiter.charge(KEY, "job-1", used=10)
    await other.limiter.charge(KEY, "job-1", used=10)
    verdict = await take(one, limits, "job-2", 90)
    assert verdict.refused is None
    assert verdict.usage.tokens > 90, "what was used stays used"


async def test_an_estimate_may_have_been_too_low_or_stand(backend: Backend) -> None:
    limits = Limits(tokens_per_minute=100)
    await take(backend, limits, "job-1", 10)
    await backend.limiter.charge(KEY, "job-1", used=300)
    assert (await take(backend, limits, "job-2", 1)).usage.tokens > 290
    await take(backend, limits, "job-1", 100, key="key_2")
    await backend.limiter.charge("key_2", "job-1", used=None)
    assert (await take(backend, limits, "job-2", 50, key="key_2")).refused == "tokens"


async def test_what_was_not_accepted_was_not_used(backend: Backend) -> None:
    limits = Limits(requests_per_minute=1, tokens_per_minute=100, concurrency=1)
    for _ in range(3):
        assert (await take(backend, limits, "job-1", 100)).refused is None
        await backend.limiter.refund(KEY, "job-1")
        await backend.limiter.refund(KEY, "job-1")
    assert (await take(backend, limits, "job-2", 100)).usage.open_jobs == 1


async def test_a_job_that_nobody_settles_is_open_until_its_deadline(backend: Backend) -> None:
    limits = Limits(concurrency=2)
    await take(backend, limits, "job-1", lasts=0.05)
    await take(backend, limits, "job-2")
    assert await backend.limiter.open_jobs(KEY, 10) == ["job-1", "job-2"]
    assert await backend.limiter.open_jobs(KEY, 1) == ["job-1"]

    async def fits() -> bool:
        return (await take(backend, limits, "job-3")).refused is None

    await wait_until(fits, "the deadline to free the slot")
    assert await backend.limiter.open_jobs(KEY, 10) == ["job-2", "job-3"]


async def test_a_key_that_is_not_known_has_nothing_open(backend: Backend) -> None:
    assert await backend.limiter.open_jobs("key_9", 10) == []
    await backend.limiter.charge("key_9", "job-1", used=1)
    await backend.limiter.refund("key_9", "job-1")
    assert await backend.limiter.open_jobs("key_9", 10) == []


# ── lines of batches ──


async def test_lines_use_their_keys_tokens_and_nothing_else_of_its_limits(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    limits = Limits(requests_per_minute=1, tokens_per_minute=1000, concurrency=1)
    for number in range(3):
        verdict = await take(replicas[number % 2], limits, f"line-{number}", 200, key=lines_of(KEY))
        assert (verdict.refused, verdict.usage.requests) == (None, 0)
    assert (await take(one, limits, "job-1", 350)).refused is None
    assert (await take(other, limits, "line-9", 1, key=lines_of(KEY))).refused == "tokens"
    assert await one.limiter.open_jobs(KEY, 10) == ["job-1"]
    assert sorted(await one.limiter.open_jobs(lines_of(KEY), 10)) == ["line-0", "line-1", "line-2"]


async def test_lines_leave_a_part_of_the_tokens_to_calls(backend: Backend) -> None:
    limits = Limits(tokens_per_minute=1000)
    assert (await take(backend, limits, "line-1", 800, key=lines_of(KEY))).refused is None
    assert (await take(backend, limits, "line-2", 100, key=lines_of(KEY))).refused == "tokens"
    assert (await take(backend, limits, "job-1", 150)).refused is None


async def test_a_line_that_needs_more_than_lines_may_have_waits_until_nothing_is_used(backend: Backend) -> None:
    limits = Limits(tokens_per_minute=1000)
    assert (await take(backend, limits, "line-1", 10, key=lines_of(KEY))).refused is None
    assert (await take(backend, limits, "line-2", 1000, key=lines_of(KEY))).refused == "tokens"
    await backend.limiter.charge(lines_of(KEY), "line-1", used=0)
    assert (await take(backend, limits, "line-2", 1000, key=lines_of(KEY))).refused is None


async def test_a_lines_end_corrects_its_estimate_once(backend: Backend) -> None:
    limits = Limits(tokens_per_minute=1000)
    for _ in range(2):
        assert (await take(backend, limits, "line-1", 700, key=lines_of(KEY))).refused is None
    for _ in range(2):
        await backend.limiter.charge(lines_of(KEY), "line-1", used=100)
    usage = (await take(backend, limits, "job-1", 0)).usage
    assert 90 < usage.tokens <= 100
