"""Whatever is sent, the answer is JSON or a stream, and never says that the fault is ours."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from shared.schema import ChatCompletionRequest
from tests.producer.api import COMPLETIONS, Answer, Api, ask, embedded_api

pytestmark = pytest.mark.asyncio(loop_scope="module")

repeatable = settings(max_examples=200, derandomize=True, database=None, deadline=None)

texts = st.text(st.characters(), max_size=20)
"""Lone surrogates, too."""

numbers = st.one_of(st.integers(-3, 3), st.floats(), st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=8,
)
# Long answers and short deadlines are good requests that take long or time out.
small = {
    "max_tokens": st.sampled_from([None, -1, 0, 1, 5, 2**63, 1.5, "1"]),
    "max_completion_tokens": st.sampled_from([None, -1, 0, 1, 5, 2**63, [], True]),
    "deadline_seconds": st.sampled_from([None, -1, 0, 30, 30.5, 1e300, "30", False]),
}
fields = st.sampled_from([*ChatCompletionRequest.model_fields, "unknown", "priority", ""])
changes = st.dictionaries(fields, values, max_size=3).flatmap(
    lambda changed: st.fixed_dictionaries({name: small.get(name, st.just(value)) for name, value in changed.items()})
)
roles = st.sampled_from(["developer", "system", "user", "assistant", "tool", "function", "robot", "", None, 7])
part_types = st.sampled_from(["text", "image_url", "input_audio", "file", "refusal", "video", None])
parts = st.fixed_dictionaries({}, optional={"type": part_types, "text": values, "image_url": values, "file": values})
messages = st.fixed_dictionaries(
    {},
    optional={"role": roles, "content": values | st.lists(parts, max_size=3), "tool_calls": values, "name": values},
)
requests = st.one_of(
    changes.map(lambda changed: ask() | changed),
    st.lists(messages, max_size=3).map(lambda several: ask(messages=several)),
    values,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    async with embedded_api() as api:
        yield api


def assert_no_surprise(answer: Answer) -> None:
    assert answer.status < 500, answer.body
    if answer.status >= 400:
        assert answer.error["type"] == "invalid_request_error"
    elif answer.status != 304:
        assert answer.headers["content-type"].startswith(("application/json", "text/event-stream"))


@repeatable
@given(request=requests, stream=st.booleans())
async def test_requests(api: Api, request: Any, stream: bool) -> None:
    path = f"{COMPLETIONS}/stream" if stream else COMPLETIONS
    body, headers = json.dumps(request).encode(), {"content-type": "application/json"}
    assert_no_surprise(await api.call("POST", path, data=body, headers=headers))


@repeatable
@given(body=st.binary(max_size=100))
async def test_bytes(api: Api, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    assert_no_surprise(await api.call("POST", COMPLETIONS, data=body, headers=headers))


queries = st.dictionaries(
    st.sampled_from(["status", "model", "after", "limit", "wait", "starting_after", "metadata", "metadata[a]", "x"]),
    st.one_of(st.text(max_size=10), numbers.filter(lambda number: not 0 < number < 400).map(str)),
    max_size=3,
)
ids = st.sampled_from(["chatcmpl-0", "%00", "%ff", "..", "a%2Fb", "%F0%9F%98%80", "~" * 201])
paths = st.sampled_from(["/v1/jobs", "/v1/jobs/{}", "/v1/jobs/{}/result", "/v1/jobs/{}/events", "/v1/models/{}"])
header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
headers = st.dictionaries(
    st.sampled_from(["if-none-match", "last-event-id", "x-request-id", "accept", "origin", "range"]),
    header_values,
    max_size=2,
)


@repeatable
@given(path=paths, job_id=ids, query=queries, headers=headers)
async def test_queries_and_headers(
    api: Api, path: str, job_id: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    url = URL(path.format(job_id), encoded=True).with_query(query)
    assert_no_surprise(await api.call("GET", url, headers=headers))
