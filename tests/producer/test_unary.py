"""POST /v1/chat/completions without `stream`."""

import json

import aiohttp
import pytest

from tests.producer.api import COMPLETIONS, Api, ask, embedded_api


async def test_the_answer_is_openais_completion(api: Api) -> None:
    answer = await api.post(ask(service_tier="auto"))
    completion = answer.json
    assert answer.status == 200
    assert completion.pop("id") == answer.headers["x-job-id"]
    assert completion.pop("created") > 0
    assert completion == {
        "object": "chat.completion",
        "model": "simulated",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " t007 t008 t009", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
    }


async def test_every_answer_has_its_usage(api: Api) -> None:
    headers = (await api.post(ask("seed=7 ttft=300"))).headers
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"].startswith("req_")
    took, waited = int(headers["openai-processing-ms"]), int(headers["x-queue-wait-ms"])
    assert 0 <= waited <= took - 300, "the engine's time is no wait"


async def test_a_clients_own_request_id_is_kept(api: Api) -> None:
    assert (await api.post(ask(), x_request_id="mine-7")).headers["x-request-id"] == "mine-7"


async def test_choices_are_independent(api: Api) -> None:
    choices = (await api.post(ask(n=2))).json["choices"]
    assert [choice["message"]["content"] for choice in choices] == [" t007 t008 t009", " t008 t009 t010"]


async def test_the_answer_names_the_used_tier(api: Api) -> None:
    used = {"priority": "priority", "fast": "priority", "flex": "flex", "default": "default", "scale": "default"}
    for asked, tier in used.items():
        assert (await api.post(ask(service_tier=asked))).json["service_tier"] == tier


async def test_an_engines_refusal_is_a_client_error(api: Api) -> None:
    answer = await api.post(ask("refuse"))
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("context_length_exceeded", "messages")
    assert answer.error["message"] == "The prompt is too long."


async def test_unknown_fields_reach_the_engine_and_ignites_own_do_not(api: Api) -> None:
    await api.post(ask(top_k=5, priority=9, request_id="x", metadata={"a": "b"}))
    (request,) = api.engine.asked
    assert request["top_k"] == 5
    assert not {"priority", "request_id", "metadata"} & request.keys()


async def test_an_unknown_model_is_404(api: Api) -> None:
    answer = await api.post(ask() | {"model": "other"})
    assert answer.status == 404
    assert (answer.error["code"], answer.error["param"]) == ("model_not_found", "model")


async def test_newlines_precede_a_slow_answer() -> None:
    async with embedded_api(unary_padding=0.05, keepalive=0.05) as api:
        api.engine.gate.clear()
        async with api.http.post(COMPLETIONS, json=ask()) as response:
            assert await response.content.readexactly(2) == b"\n\n"
            api.engine.gate.set()
            padding, completion = (await response.read()).split(b"{", 1)
    assert padding.strip(b"\n") == b""
    assert json.loads(b"{" + completion)["choices"][0]["message"]["content"] == " t007 t008 t009"
    assert response.headers["content-type"] == "application/json"


async def test_a_failure_after_newlines_breaks_the_connection() -> None:
    """An error body after a 200 would be read as a completion."""
    async with embedded_api(unary_padding=0.05, keepalive=0.05) as api:
        api.engine.gate.clear()
        async with api.http.post(COMPLETIONS, json=ask("refuse")) as response:
            assert response.status == 200
            api.engine.gate.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_padding_can_be_switched_off() -> None:
    async with embedded_api(unary_padding=0, keepalive=0.05) as api:
        assert (await api.post(ask("ttft=300"))).body.startswith(b"{")
