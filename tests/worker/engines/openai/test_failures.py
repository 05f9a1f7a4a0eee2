"""The translation of a server's status, headers and message into errors and waits."""

import time
from typing import Any

import orjson
import pytest

from shared.errors import EngineError, EngineOverloaded, EngineRefused
from worker.engines.openai.failures import UpstreamFailed, of_status
from worker.engines.openai.retry_after import retry_after

WAITS: dict[str, tuple[dict[str, str], dict[str, Any], float | None]] = {
    "seconds": ({"Retry-After": "7"}, {}, 7),
    "a duration": ({"Retry-After": "1m30s"}, {}, 90),
    "milliseconds first": ({"retry-after-ms": "250", "Retry-After": "1"}, {}, 0.25),
    "a date long past": ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, {}, 0),
    "a date that is none": ({"Retry-After": "Wed, 99 Oct 99999 07:28:00 GMT"}, {}, None),
    "infinity": ({"Retry-After": "inf"}, {}, None),
    "a negative number": ({"Retry-After": "-3"}, {}, None),
    "OpenAI's reset": ({"x-ratelimit-reset-requests": "6m0s"}, {}, 360),
    "the reset of what is used up": (
        {
            "x-ratelimit-remaining-requests": "9",
            "x-ratelimit-reset-requests": "6m0s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "120ms",
        },
        {},
        0.12,
    ),
    "Google's": ({}, {"details": [{"@type": "QuotaFailure"}, {"@type": "RetryInfo", "retryDelay": "45.5s"}]}, 45.5),
    "a field": ({}, {"metadata": {"retry_after_seconds": 3}}, 3),
    "OpenAI's words": ({}, {"message": "Rate limit reached. Please try again in 1.5s. Visit"}, 1.5),
    "words with milliseconds": ({}, {"message": "Please try again in 20ms."}, 0.02),
    "Azure's words": ({}, {"message": "Exceeded the limit of 9 tokens. Please retry after 6 seconds."}, 6),
    "words that do not say": ({}, {"message": "Try again later: 5 requests are the limit."}, None),
    "nothing": ({}, {}, None),
}


@pytest.mark.parametrize(("headers", "said", "seconds"), WAITS.values(), ids=WAITS)
def test_the_time_to_wait_is_found(headers: dict[str, str], said: dict[str, Any], seconds: float | None) -> None:
    assert retry_after(headers, said) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("scale", [1, 1000])
def test_a_reset_as_a_point_in_time(scale: int) -> None:
    found = retry_after({"X-RateLimit-Reset".lower(): str(int((time.time() + 30) * scale))}, {})
    assert found is not None
    assert 25 < found <= 30


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


MEANT: dict[str, tuple[int, Any, type[EngineError | EngineRefused]]] = {
    "a spent quota": (429, error("no credit", type="insufficient_quota"), EngineRefused),
    "Moonshot's spent quota": (429, error("no credit", type="exceeded_current_quota_error"), EngineRefused),
    "Google's rate limit": (
        429,
        [error("You exceeded your current quota", status="RESOURCE_EXHAUSTED")],
        EngineOverloaded,
    ),
    "overload as 400": (400, error("later", type="engine_overloaded_error"), EngineOverloaded),
    "a rate limit as 400": (400, error("later", code="rate_limit_exceeded"), EngineOverloaded),
    "overload as 500": (500, error("later", type="overloaded_error"), EngineOverloaded),
    "words of overload in 400": (400, error("The server is overloaded."), UpstreamFailed),
    "the context's length as 500": (500, error("maximum context length is 9 tokens"), EngineRefused),
    "its code as 500": (500, error("no", code="context_length_exceeded"), EngineRefused),
    "llama-server's": (500, error("the request exceeds the available context size"), EngineRefused),
    "xAI's words": (400, {"code": "Client specified an invalid argument", "error": "no tools"}, EngineRefused),
    "a gateway's page": (502, b"<html><title>x</title><h1>Bad Gateway</h1></html>", UpstreamFailed),
    "Cloudflare's timeout": (524, b"error code: 524", UpstreamFailed),
    "a client that left": (499, b"", UpstreamFailed),
    "too early": (425, b"", UpstreamFailed),
}


@pytest.mark.parametrize(("status", "body", "meant"), MEANT.values(), ids=MEANT)
def test_what_an_error_means(status: int, body: Any, meant: type[Exception]) -> None:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    assert type(of_status(status, {}, data)) is meant


def test_a_prompt_that_is_too_long_has_openais_code() -> None:
    refused = of_status(500, {}, orjson.dumps(error("This model's maximum context length is 9 tokens.")))
    assert isinstance(refused, EngineRefused)
    assert (refused.code, refused.param) == ("context_length_exceeded", "messages")
