"""What POST /v1/batches says of a completion window, and what a batch that falls behind does."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, RateLimitError
from openai.types import Batch

from ignite.worker_process import working
from producer.batches import forecasts
from producer.batches.execution import escalation
from producer.batches.throughput import Throughput
from producer.fleet import ALL_TENANTS
from shared.backends.embedded.backend import open_embedded
from shared.job import QueueName, Tier
from shared.ports import Backlog
from tests.producer.api import MODEL, Api, WatchedEngine, running_api, settings_for_tests
from tests.support.batches import begun, jsonl, line, over
from tests.support.clock import Clock
from tests.support.wait_until import wait_until

SLOTS = 4
LINES = 40
FLEX = QueueName(MODEL, Tier.FLEX)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """With SLOTS slots, and an engine that waits for its gate."""
    settings = settings_for_tests(files_dir=tmp_path, models=MODEL, flex_patience=1000)
    engine = WatchedEngine()
    engine.concurrency = SLOTS
    engine.gate.clear()
    await engine.start()
    async with (
        open_embedded(None) as backend,
        working(backend, engine, settings),
        running_api(backend, settings, worker=False) as api,
    ):
        api.engine = engine
        yield api


@pytest.fixture
async def client(api: Api) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client:
        yield client


async def measured(api: Api, tokens_per_second: int) -> None:
    """Lets the API have measured this rate for sure. Its clock stands still, so that nothing else is measured."""
    clock = Clock()
    throughput = Throughput(clock)
    backlog = Backlog(jobs=5, tokens=500, tenants=1, tenant_jobs=5, started=-1000, started_tokens=-1_000_000)
    throughput.observe(str(FLEX), backlog)
    clock.now += 100
    later = Backlog(5, 500, 1, 5, started=-900, started_tokens=-1_000_000 + 100 * tokens_per_second)
    throughput.observe(str(FLEX), later)
    api.context.forecasts.throughput = throughput
    await api.context.forecasts.refresh(0.0)


def lines(count: int) -> bytes:
    """Lines of about 1,000 tokens each."""
    return jsonl(line(number, max_tokens=1000) for number in range(count))


async def created(client: AsyncOpenAI, count: int, window: str, **extra: Any) -> Batch:
    return await begun(client, lines(count), completion_window=window, **({"extra_body": extra} if extra else {}))


def forecast_of(batch: Batch) -> tuple[float | None, str]:
    shown = batch.model_dump()
    return shown["expected_finish_at"], shown["expected_finish_confidence"]


async def test_without_a_measurement_it_says_so_and_accepts(api: Api, client: AsyncOpenAI) -> None:
    batch = await created(client, 5, "1s")
    assert forecast_of(batch) == (None, "none")


async def test_a_window_out_of_reach_is_refused_with_the_one_that_can_be_kept(api: Api, client: AsyncOpenAI) -> None:
    await measured(api, 10)
    first = await created(client, LINES, "2d")
    expected, confidence = forecast_of(first)
    assert confidence == "high"
    assert expected is not None and abs(expected - first.created_at - LINES * 100) < LINES * 8  # the prompts' tokens

    for window in ("5s", "8h"):  # impossible by itself; kept by itself but not behind the first batch
        count = 10 if window == "5s" else 1000
        with pytest.raises(RateLimitError) as refused:
            await created(client, count, window)
        assert (refused.value.code, refused.value.param) == ("window_out_of_reach", "completion_window")
        assert float(refused.value.response.headers["retry-after"]) >= 1
        possible = int(refused.value.message.split("about ")[1].split("s.")[0])
        assert count * 100 <= possible <= count * 112
        assert (await client.batches.list()).data[0].id == first.id, "nothing was created"
    accepted = await created(client, 1000, f"{possible + 60}s")
    assert forecast_of(accepted)[1] == "high"


async def test_a_window_that_breaks_an_accepted_one_is_refused_unless_late_is_accepted(
    api: Api, client: AsyncOpenAI
) -> None:
    await measured(api, 10)
    await created(client, LINES, f"{LINES * 115}s")
    with pytest.raises(RateLimitError) as refused:
        await created(client, LINES, f"{LINES * 112}s")
    assert refused.value.code == "window_out_of_reach"
    late = await created(client, LINES, "60s", accept_late=True)
    expected, confidence = forecast_of(late)
    assert confidence == "high"
    assert expected is not None and late.expires_at is not None and expected > late.expires_at


async def test_a_retry_is_asked_for_its_window_too(api: Api, client: AsyncOpenAI) -> None:
    data = jsonl(line(number, prompt="refuse", max_tokens=1000) for number in range(8))
    broken = await begun(client, data, completion_window="60s")
    api.engine.gate.set()
    assert (await over(client, broken)).status == "completed"
    await measured(api, 10)
    answer = await api.call("POST", f"/v1/batches/{broken.id}/retry")
    assert (answer.status, answer.error["code"]) == (429, "window_out_of_reach")
    answer = await api.post({"accept_late": "yes"}, f"/v1/batches/{broken.id}/retry")
    assert (answer.status, answer.error["param"]) == (400, "accept_late")
    answer = await api.post({"accept_late": True}, f"/v1/batches/{broken.id}/retry")
    assert (answer.status, answer.json["retry_of"]) == (200, broken.id)


async def test_a_batch_that_falls_behind_moves_up_and_back(
    api: Api, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(escalation, "STEP_EVERY", 0.0)
    monkeypatch.setattr(forecasts, "READ_EVERY", 0.05)
    batch = await created(client, 3 * LINES, "300s")
    await wait_until(lambda: submitted(api, Tier.FLEX), "lines in flex")
    tiers = Tiers()
    monkeypatch.setattr(escalation, "log", tiers)
    await measured(api, 10)  # At this rate the batch needs hours.
    await wait_until(lambda: submitted(api, Tier.DEFAULT, SLOTS // 2), "half of the slots for the tier default")
    await measured(api, 10_000_000)
    await wait_until(lambda: tiers.seen == ["default", "flex"], "the way back", seen=lambda: tiers.seen)
    api.engine.gate.set()
    ended = await over(client, batch)

    assert (ended.status, ended.request_counts and ended.request_counts.completed) == ("completed", 3 * LINES)
    assert ended.model_dump()["tier_in_use"] == "flex"
    assert await submitted(api, Tier.DEFAULT, SLOTS // 2), "no more lines than the share of the slots moved up"
    assert not await submitted(api, Tier.DEFAULT, SLOTS // 2 + 1)


async def submitted(api: Api, tier: Tier, least: int = 1) -> bool:
    """Whether that many jobs of the tier, or more, wait or were started."""
    backlog = await api.backend.scheduler.backlog(QueueName(MODEL, tier), ALL_TENANTS)
    return backlog.jobs + backlog.started >= least


class Tiers:
    """A log that keeps the tiers of its events."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def info(self, event: str, **fields: Any) -> None:
        assert event == "batch.tier_changed"
        self.seen.append(fields["tier"])
