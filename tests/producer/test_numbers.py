"""Invalid numbers in every field are 400 with the field's name, for all kinds of calls."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseError
from openai import AsyncOpenAI

from shared.backends.distributed import open_distributed
from shared.schema import ChatCompletionRequest
from shared.settings import Settings
from tests.producer.api import Api, ask, embedded_api, running_api, settings_for_tests
from tests.support.batches import begun, jsonl, line, outcome_of, over
from tests.support.grpc_client import GrpcClient, grpc_client, refused
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis

pytestmark = pytest.mark.asyncio(loop_scope="module")

INTEGERS = ("max_completion_tokens", "max_tokens", "n", "seed", "top_logprobs")
DECIMALS = ("deadline_seconds", "frequency_penalty", "presence_penalty", "temperature", "top_p")
BIGGEST = 2**63 - 1

TOO_MUCH = [2**63, -(2**63) - 1, 2**64, 10**30, -(10**30), 1e308, -1e308]
NO_NUMBER = [True, False, "1", "x", "", [], [1], {}, {"a": 1}]
FIT = {
    "max_completion_tokens": 1,
    "max_tokens": 1,
    "n": 1,
    "seed": BIGGEST,
    "top_logprobs": 20,
    "deadline_seconds": 9.5,
}

WRONG = [
    *((name, value) for name in (*INTEGERS, *DECIMALS) for value in (*TOO_MUCH, *NO_NUMBER)),
    *((name, 1.5) for name in INTEGERS),
    *((name, value) for name in INTEGERS if name != "seed" for value in (BIGGEST, -1, -BIGGEST)),
    *((name, value) for name in DECIMALS for value in (BIGGEST, -BIGGEST)),
]


@pytest.fixture(scope="module", params=["embedded", "distributed"])
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    if request.param == "embedded":
        yield settings_for_tests(grpc=True)
        return
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq_server")
    redis: Redis = request.getfixturevalue("redis_server")
    vhost = rabbitmq.create_vhost()
    yield settings_for_tests(grpc=True, amqp_url=rabbitmq.url(vhost), redis_url=redis.url(redis.fresh_database()))
    rabbitmq.delete_vhost(vhost)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    files = {"files_dir": tmp_path_factory.mktemp("files")}
    if not (settings.amqp_url and settings.redis_url):
        async with embedded_api(grpc=True, **files) as api:
            yield api
        return
    async with (
        open_distributed(settings.amqp_url, settings.redis_url) as backend,
        running_api(backend, settings.model_copy(update=files)) as api,
    ):
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(api: Api) -> AsyncIterator[GrpcClient]:
    async with grpc_client(api.grpc_address) as client:
        yield client


def asked(name: str, value: Any) -> dict[str, Any]:
    return ask(**{"logprobs": True} if name == "top_logprobs" else {}, **{name: value})


async def test_the_test_covers_all_numbers() -> None:
    fields = ChatCompletionRequest.model_json_schema()["properties"].items()
    kinds = {name: {kind.get("type") for kind in field.get("anyOf", ())} for name, field in fields}
    assert {name for name, types in kinds.items() if "integer" in types} == {*INTEGERS}
    assert {name for name, types in kinds.items() if "number" in types} == {*DECIMALS}


async def test_http(api: Api) -> None:
    for name, value in WRONG:
        answer = await api.post(asked(name, value))
        assert (answer.status, answer.json["error"]["param"]) == (400, name), (name, value, answer.body)
        assert name in answer.error["message"]


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "01", "1.", "0x1", "9" * 5000])
async def test_http_with_almost_valid_json(api: Api, text: str) -> None:
    for name in (*INTEGERS, *DECIMALS):
        body = json.dumps(asked(name, "?")).replace('"?"', text)
        answer = await api.call("POST", "/v1/chat/completions", data=body, headers={"content-type": "application/json"})
        assert answer.status == 400, (name, text, answer.body)
        assert answer.error["param"] in (None, name)


async def test_valid_numbers_are_accepted(api: Api) -> None:
    for name, value in FIT.items():
        assert (await api.post(asked(name, value))).status == 200, name
    for value in (BIGGEST, -BIGGEST - 1):
        assert (await api.post(ask(seed=value, store=True))).status == 200


async def test_numbers_of_engine_fields_are_not_checked(api: Api) -> None:
    for value in (BIGGEST, 2**64 - 1, 10**30, -(10**30), 1e308):
        assert (await api.post(ask(top_k=value, background=True))).status == 202


async def test_grpc(api: Api, client: GrpcClient) -> None:
    """In the schema's fields, if the client's parser accepts the value, and in `extra_body`."""
    for name, value in WRONG:
        if type(value) in (int, float) and (call := sent(client, asked(name, value))) is not None:
            refusal = await refused(call)
            assert refusal.error["param"] == name, (name, value, refusal.message)
            assert refusal.code.name == "INVALID_ARGUMENT", (name, value, refusal.message)
    for name, value in WRONG:
        beside = {"extra_body": {name: value}, **({"logprobs": True} if name == "top_logprobs" else {})}
        refusal = await refused(client.unary(ask() | beside))
        assert refusal.code.name == "INVALID_ARGUMENT", (name, value, refusal.message)
        assert refusal.error["param"] == name, (name, value, refusal.message)


def sent(client: GrpcClient, body: dict[str, Any]) -> Any:
    try:
        return client.unary(body)
    except ParseError:
        return None


async def test_a_batch(api: Api) -> None:
    lines = [line(number, **{"max_tokens": None, **asked(name, value)}) for number, (name, value) in enumerate(WRONG)]
    async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as openai:
        done, failed = await outcome_of(openai, await over(openai, await begun(openai, jsonl(lines))))
    assert done == []
    found = {each["custom_id"]: each["response"] for each in failed}
    for number, (name, value) in enumerate(WRONG):
        response = found[f"line-{number}"]
        assert (response["status_code"], response["body"]["error"]["param"]) == (400, name), (name, value)


HEADERS = {
    "cancel-after": ["x", "-1", "0", "1e999", "nan", str(BIGGEST), "9" * 400],
}
QUERIES = {
    "/v1/jobs": ["limit"],
    "/v1/files": ["limit"],
    "/v1/batches": ["limit"],
    "/v1/chat/completions": ["limit"],
    "/v1/jobs/chatcmpl-1": ["wait"],
    "/v1/jobs/chatcmpl-1/events": ["starting_after"],
}


async def test_numbers_in_headers_and_queries(api: Api) -> None:
    for name, values in HEADERS.items():
        for value in values:
            answer = await api.call("POST", "/v1/chat/completions", json=ask(), headers={name: value})
            assert (answer.status, answer.error["param"].lower()) == (400, name), value
    for path, names in QUERIES.items():
        for name in names:
            for value in ("x", "-2", "1e999", "nan", str(2**63), "9" * 400, "true"):
                answer = await api.call("GET", path, params={name: value})
                assert (answer.status, answer.error["param"]) == (400, name), (path, value)
