"""Completion windows: which lines run first."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from producer.fleet import ALL_TENANTS
from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from shared.job import QueueName, Tier
from shared.settings import Settings
from tests.producer.api import MODEL, Api, prompt_of, running_api, settings_for_tests
from tests.support.batches import begun, jsonl, line, over
from tests.support.wait_until import wait_until

SLOTS = 2


@pytest.fixture(params=["embedded", "distributed"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    names = ("amqp_url", "redis_url") if request.param == "distributed" else ()
    urls = {name: request.getfixturevalue(name) for name in names}
    return settings_for_tests(files_dir=tmp_path, models=MODEL, **urls)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """With SLOTS slots, and an engine that waits for its gate."""
    opened = (
        open_distributed(settings.amqp_url, settings.redis_url)
        if settings.amqp_url and settings.redis_url
        else open_embedded(None)
    )
    async with opened as backend, running_api(backend, settings, worker=False) as api:
        api.engine.concurrency = SLOTS
        api.engine.gate.clear()
        async with api.worker():
            yield api


async def waiting(api: Api, jobs: int) -> None:
    async def there() -> bool:
        backlogs = [await api.backend.scheduler.backlog(QueueName(MODEL, tier), ALL_TENANTS) for tier in Tier]
        return sum(backlog.jobs for backlog in backlogs) == jobs

    await wait_until(there, f"{jobs} lines to wait")


async def test_a_short_window_is_kept_though_days_of_work_came_first(api: Api) -> None:
    async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client:
        large = [await begun(client, jsonl(line(n, prompt=f"large {n}") for n in range(20))) for _ in range(3)]
        await waiting(api, 3 * 20 - SLOTS)
        small = await begun(client, jsonl(line(n, prompt=f"small {n}") for n in range(6)), completion_window="60s")
        await waiting(api, 3 * 20 + 6 - SLOTS)
        api.engine.gate.set()
        ended = await over(client, small)
        for batch in large:
            assert (await over(client, batch)).status == "completed"

    assert (ended.status, ended.request_counts and ended.request_counts.completed) == ("completed", 6)
    order = [prompt_of(request).split()[0] for request in api.engine.asked]
    # Each slot had one large line when the small ones came, and may have taken one more before it knew of them.
    assert order[: 2 * SLOTS + 6].count("small") == 6, order


async def test_a_job_with_a_deadline_goes_before_those_without(api: Api) -> None:
    for number in range(8):
        await api.submit({**line(number, prompt=f"plain {number}")["body"], "background": True})
    await waiting(api, 8 - SLOTS)
    urgent = {**line(9, prompt="urgent")["body"], "background": True, "deadline_seconds": 600}
    job = await api.submit(urgent)
    await waiting(api, 9 - SLOTS)
    api.engine.gate.set()
    await api.ended(job)
    order = [prompt_of(request).split()[0] for request in api.engine.asked]

    assert "urgent" in order[: 2 * SLOTS + 1], order
