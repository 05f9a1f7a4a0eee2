"""A batch respects its key's limits: lines wait for tokens, and end when the key is revoked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from producer.auth.keys import KeyRepository
from producer.batches.execution import lifecycle
from shared.backends.distributed import open_distributed
from shared.backends.embedded.backend import open_embedded
from shared.limits import Limits, lines_of
from shared.settings import Settings
from tests.producer.api import MODEL, Api, ask, running_api, settings_for_tests
from tests.support.batches import begun, jsonl, line, outcome_of, over
from tests.support.wait_until import wait_until

KEYS = "root=secret-of-root-4711"
TOKENS = 60_000
"""A minute's: one comes back every millisecond."""

LARGE = line(0, prompt="x" * 100_000)["body"]["messages"]
"""About 25,000 tokens, as estimated; one, as it turns out."""


@pytest.fixture(params=["embedded", "distributed"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    names = ("amqp_url", "redis_url") if request.param == "distributed" else ()
    urls = {name: request.getfixturevalue(name) for name in names}
    return settings_for_tests(api_keys=KEYS, files_dir=tmp_path, models=MODEL, tenant_batch_limit=3, **urls)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    opened = (
        open_distributed(settings.amqp_url, settings.redis_url)
        if settings.amqp_url and settings.redis_url
        else open_embedded(None)
    )
    async with opened as backend, running_api(backend, settings) as api:
        yield api


async def made(api: Api, **limits: Any) -> tuple[AsyncOpenAI, str]:
    """Returns a client with a new key, and the key's id."""
    secret, key = await KeyRepository(api.backend.documents).create("alice", limits=Limits(**limits))
    return AsyncOpenAI(base_url=api.url, api_key=secret, max_retries=0), key.id


async def test_lines_wait_for_their_keys_tokens(api: Api) -> None:
    alice, key = await made(api, requests_per_minute=2, tokens_per_minute=TOKENS)
    api.engine.gate.clear()
    lines = [{**line(n), "body": {**line(n)["body"], "messages": LARGE}} for n in range(5)]
    async with alice:
        batch = await begun(alice, jsonl(lines))
        await wait_until(lambda: api.engine.working >= 1, "lines to run")
        for _ in range(20):
            await asyncio.sleep(0)
        assert api.engine.working <= 2, "of 60,000 tokens lines may have 48,000"
        assert (await api.backend.limiter.open_jobs(lines_of(key), 10)) != []
        call = asyncio.create_task(alice.chat.completions.create(**ask()))
        api.engine.gate.set()
        assert (await call).choices, "a call need not wait for the batch"
        done = await over(alice, batch)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 5, 0)
    usage = (await api.backend.limiter.take(key, Limits(2, TOKENS), "job-9", tokens=0, until=0)).usage
    assert usage.tokens < 1000, "what the lines have used, in the place of what they were taken for"
    assert usage.requests <= 2, "lines are no requests of the key's"
    assert await api.backend.limiter.open_jobs(lines_of(key), 10) == []


async def test_the_batch_of_a_revoked_key_ends_with_the_reason(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "POLL_INTERVAL", 0.1)
    api.engine.gate.clear()
    alice, key = await made(api, tokens_per_minute=1)
    other = AsyncOpenAI(base_url=api.url, api_key=await second_key(api), max_retries=0)
    async with alice, other:
        batch = await begun(alice, jsonl(map(line, range(5))))
        await wait_until(lambda: api.backend.limiter.open_jobs(lines_of(key), 10), "a line to be begun")
        await KeyRepository(api.backend.documents).revoke("alice")
        done = await over(other, batch)
        assert (done.status, done.errors and done.errors.data and done.errors.data[0].code) == (
            "cancelled",
            "key_revoked",
        )
        answers, failures = await outcome_of(other, done)
    assert len(answers) + len(failures) == 5
    assert {each["error"]["code"] for each in failures} == {"key_revoked"}


async def test_the_batch_of_a_key_of_the_settings_is_not_limited_and_outlives_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "POLL_INTERVAL", 0.0)
    settings = settings_for_tests(api_keys="alice=old-secret-of-alice-4711", files_dir=tmp_path, models=MODEL)
    changed = settings.model_copy(update={"api_keys": "alice=new-secret-of-alice-4711"})
    async with open_embedded(None) as backend:
        async with (
            running_api(backend, settings, worker=False) as api,
            AsyncOpenAI(base_url=api.url, api_key="old-secret-of-alice-4711") as alice,
        ):
            batch = await begun(alice, jsonl([{**line(n), "body": ask(max_tokens=100)} for n in range(5)]))
        async with (
            running_api(backend, changed) as api,
            AsyncOpenAI(base_url=api.url, api_key="new-secret-of-alice-4711", max_retries=0) as alice,
        ):
            assert (await api.get("/v1/models", authorization="Bearer old-secret-of-alice-4711")).status == 401
            done = await over(alice, batch)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed) == ("completed", 5)


async def second_key(api: Api) -> str:
    secret, _ = await KeyRepository(api.backend.documents).create("alice-2", tenant="alice")
    return secret


async def test_the_open_batches_of_a_tenant_are_limited(api: Api) -> None:
    api.engine.gate.clear()
    alice, _ = await made(api)
    async with alice:
        begun_at_once = await asyncio.gather(
            *(begun(alice, jsonl([line(1)])) for _ in range(8)), return_exceptions=True
        )
        batches = [each for each in begun_at_once if isinstance(each, Batch)]
        refusals = [each for each in begun_at_once if isinstance(each, openai.RateLimitError)]
        assert (len(batches), len(refusals)) == (3, 5)
        assert "tenant_batch_limit" in refusals[0].message
        api.engine.gate.set()
        for batch in batches:
            await over(alice, batch)
        await wait_until(lambda: begun_again(alice), "another batch to be taken")


async def begun_again(client: AsyncOpenAI) -> Batch:
    try:
        return await begun(client, jsonl([line(1)]))
    except openai.RateLimitError as error:
        raise AssertionError from error
