"""The limits of answers: requested tokens and received bytes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.backends.distributed import open_distributed
from tests.producer.api import Api, ask, embedded_api, running_api, settings_for_tests

LIMIT = 64 * 1024
HUGE = 2**63 - 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [1_000_001, HUGE])
@pytest.mark.parametrize("more", [{}, {"stream": True}, {"background": True}], ids=["unary", "stream", "job"])
async def test_more_than_the_models_context_is_refused(api: Api, name: str, limit: int, more: dict[str, Any]) -> None:
    answer = await api.post(ask(**{name: limit}, **more))
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert answer.error["param"] == name
    assert "1000000 tokens" in answer.error["message"]


async def test_all_choices_together_have_a_limit(api: Api) -> None:
    answer = await api.post(ask(n=128, max_tokens=1_000_000))
    assert (answer.status, answer.error["param"]) == (400, "max_tokens")
    assert "n = 128" in answer.error["message"]
    assert (await api.post(ask(n=128, max_tokens=2))).status == 200


@pytest.fixture(params=["embedded", "distributed"])
def urls(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    """The URLs of RabbitMQ and Redis for the distributed backend."""
    if request.param == "embedded":
        return None
    return request.getfixturevalue("amqp_url"), request.getfixturevalue("redis_url")


@pytest.fixture
async def boundless(urls: tuple[str, str] | None, tmp_path: Path) -> AsyncIterator[Api]:
    """A model without a known context, on a server without a token limit."""
    changes: dict[str, Any] = {"answer_token_limit": 0, "models": "simulated", "job_log_limit": LIMIT}
    if urls is None:
        async with embedded_api(worker=False, **changes) as api:
            yield api
        return
    settings = settings_for_tests(amqp_url=urls[0], redis_url=urls[1], files_dir=tmp_path, **changes)
    async with open_distributed(*urls) as backend, running_api(backend, settings, worker=False) as api:
        yield api


async def test_no_number_of_tokens_causes_a_crash(boundless: Api) -> None:
    job = await boundless.submit(ask(n=128, max_tokens=HUGE))
    assert (await boundless.job(job))["status"] == "queued"


async def test_an_answer_that_is_too_large_ends_with_an_error(boundless: Api) -> None:
    async with boundless.worker():
        stream = await boundless.post(ask(stream=True, max_tokens=5_000))
        unary = await boundless.post(ask(max_tokens=20_000))
        short = await boundless.post(ask(stream=True, max_tokens=50))
    assert stream.frames[-1]["error"]["code"] == "answer_too_large"
    assert f"{LIMIT:,} bytes" in stream.frames[-1]["error"]["message"]
    assert LIMIT / 2 < len(stream.body) < LIMIT + 2000
    assert (unary.status, unary.error["code"]) == (400, "answer_too_large")
    assert len(short.text) == 5 * 50
    job = await boundless.job(stream.headers["x-job-id"])
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert job["result"], "what there is of it is kept"
