"""Every invalid request gets OpenAI's error object with a 4xx status."""

import gzip
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from yarl import URL

from tests.producer.api import COMPLETIONS, Answer, Api, ask, embedded_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

MB = 1024 * 1024
JSON = {"content-type": "application/json"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    """Shared by all tests, because refused requests leave nothing behind."""
    async with embedded_api() as api:
        yield api


def nested(levels: int) -> bytes:
    return b'{"model":"simulated","messages":' + b"[" * levels + b"]" * levels + b"}"


def with_field(field: str, value: str) -> bytes:
    return json.dumps(ask()).encode()[:-1] + f', "{field}": {value}}}'.encode()


async def send(api: Api, body: bytes, path: str = COMPLETIONS) -> Answer:
    return await api.call("POST", path, data=body, headers=JSON)


@pytest.mark.parametrize("path", [COMPLETIONS, f"{COMPLETIONS}/stream"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b'[{"model":"simulated"}]',
        b"{'model': 'simulated'}",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"model":"\xc3\x28"}',
        rb'{"model":"\ud800"}',
        rb'{"\ud800":1}',
        b'{"temperature":NaN}',
        b'{"temperature":-Infinity}',
        b'{"temperature":1e999}',
        b'{"model":"simulated"} {}',
        nested(200),
        nested(100_000),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        gzip.compress(b"{}", mtime=0),
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_what_is_not_a_json_object_is_refused(api: Api, path: str, body: bytes) -> None:
    answer = await send(api, body, path)
    assert answer.status == 400
    assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", "invalid_json")


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("messages", "[]", "messages"),
        ("messages", '[{"role":"user"}]', "messages[0].content"),
        ("messages", '[{"role":"user","content":[{"type":"text"}]}]', "messages[0].content[0].text"),
        ("model", "7", "model"),
        ("model", '""', "model"),
        ("n", "0", "n"),
        ("n", "129", "n"),
        ("n", "1.5", "n"),
        ("n", '"1"', "n"),
        ("n", "true", "n"),
        ("seed", "9223372036854775808", "seed"),
        ("seed", "1" * 40, "seed"),
        ("max_tokens", "1e3", "max_tokens"),
        ("temperature", "2.01", "temperature"),
        ("stop", '["a","b","c","d","e"]', "stop"),
        ("stream", '"yes"', "stream"),
        ("stream_options", '{"include_usage":true}', "stream_options"),
        ("top_logprobs", "3", "top_logprobs"),
        ("deadline_seconds", "0", "deadline_seconds"),
        ("metadata", '{"a":1}', "metadata.a"),
        ("tools", '"x"', "tools"),
        ("tool_choice", '"required"', "tool_choice"),
        ("response_format", '{"type":"xml"}', "response_format.type"),
        ("service_tier", '"gold"', "service_tier"),
    ],
)
async def test_an_invalid_field_is_named(api: Api, field: str, value: str, param: str) -> None:
    asked = len(api.engine.asked)
    answer = await send(api, with_field(field, value))
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, "invalid_value")
    assert len(api.engine.asked) == asked


async def test_the_last_of_duplicate_json_keys_counts(api: Api) -> None:
    assert (await send(api, with_field("max_tokens", "1"))).json["usage"]["completion_tokens"] == 1
    twice = with_field("max_tokens", "1")[:-1] + b', "max_tokens": 2}'
    assert (await send(api, twice)).json["usage"]["completion_tokens"] == 2


async def test_a_refusal_does_not_quote_megabytes(api: Api) -> None:
    word = "x" * 500_000
    for answer in (
        await send(api, with_field("messages", f'[{{"role":"{word}"}}]')),
        await send(api, with_field("metadata", f'{{"{word}":"x"}}')),
        await send(api, with_field("tool_choice", f'{{"type":"function","function":{{"name":"{word}"}}}}')),
    ):
        assert answer.status == 400
        assert len(answer.body) < 1000


# ── media type and size ──


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", "ü/ö"])
async def test_other_media_types_are_refused(api: Api, kind: str) -> None:
    answer = await api.call("POST", COMPLETIONS, data=b"{}", headers={"content-type": kind})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"])
async def test_all_media_types_of_json_are_accepted(api: Api, kind: str) -> None:
    answer = await api.call("POST", COMPLETIONS, data=json.dumps(ask()), headers={"content-type": kind})
    assert answer.status == 200


async def pieces(size: int) -> AsyncIterator[bytes]:
    for at in range(0, size, MB):
        yield bytes(min(MB, size - at))


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_of_200_mb_is_refused_with_413(api: Api, announced: bool) -> None:
    headers = JSON | ({"content-length": str(200 * MB)} if announced else {})
    answer = await api.call("POST", COMPLETIONS, data=pieces(200 * MB), headers=headers)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert "20,971,520 bytes" in answer.error["message"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_one_byte_too_large_is_refused(api: Api, announced: bool) -> None:
    size = api.settings.body_limit + 1
    headers = JSON | ({"content-length": str(size)} if announced else {})
    assert (await api.call("POST", COMPLETIONS, data=pieces(size), headers=headers)).status == 413


# ── paths and methods ──


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "/V1/models",
        "//v1/models",
        "/v1/%2e%2e/models",
        "/%00",
        "/%ff",
        "/ü",
    ],
)
async def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    head, body = (await api.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).split(b"\r\n", 1)
    assert head.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE"])
async def test_another_method_is_not_allowed(api: Api, method: str) -> None:
    answer = await api.call(method, COMPLETIONS)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert answer.error["code"] == "method_not_allowed"


@pytest.mark.parametrize("host", ["[", "x:y", "a b", "", "ü", "http://x/"])
async def test_an_unusual_host_is_handled(api: Api, host: str) -> None:
    head = await api.raw(f"GET /nowhere HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
    assert head.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400", b"HTTP/1.1 403"))


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 201, "ü", "\t", "a\x7fb", "a\x01b"])
async def test_a_request_id_that_could_do_harm_is_replaced(api: Api, given: str) -> None:
    request = f"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: {given}\r\n\r\n".encode("latin-1")
    head = await api.raw(request)
    assert head.startswith(b"HTTP/1.1 400") or b"x-request-id: req_" in head


async def test_a_request_id_cannot_carry_another_header(api: Api) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\n Set-Cookie: b=c\r\n\r\n"
    assert b"set-cookie" not in (await api.raw(request)).lower()


@pytest.mark.parametrize("path", ["jobs/" + "x" * 300, "jobs/%00", "jobs/%ff", "models/%00", "models/a/b"])
async def test_invalid_ids_are_client_errors(api: Api, path: str) -> None:
    answer = await api.call("GET", URL(f"/v1/{path}", encoded=True))
    assert answer.status in (400, 404)
    assert answer.error["type"] == "invalid_request_error"
