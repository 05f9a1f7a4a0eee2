"""Random requests get JSON or a stream, and never a 500."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase, CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from yarl import URL

from shared.schema import ChatCompletionRequest
from tests.producer.api import COMPLETIONS, MODEL, Answer, Api, ask, embedded_api
from tests.support.corpus import CORPUS
from tests.support.fuzz import examples
from tests.support.mutations import NUMBERS, bodies
from tests.support.response_corpus import RESPONSE_CORPUS

pytestmark = pytest.mark.asyncio(loop_scope="module")

repeatable = examples(200)
RESPONSES = "/v1/responses"

JSON = {"content-type": "application/json"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    async with embedded_api() as api:
        yield api


def assert_no_surprise(answer: Answer) -> None:
    assert answer.status < 500, answer.body
    if answer.status >= 400:
        assert answer.error["type"] in ("invalid_request_error", "permission_error")
    elif answer.status not in (204, 304):
        assert answer.headers["content-type"].startswith(("application/json", "text/event-stream"))


# ── requests ──


async def test_the_corpus_has_every_published_field() -> None:
    published = {*CompletionCreateParamsStreaming.__annotations__, *CompletionCreateParamsBase.__annotations__}
    assert published <= {name for request in CORPUS.values() for name in request}


@pytest.mark.parametrize("name", CORPUS)
async def test_the_corpus_is_valid(api: Api, name: str) -> None:
    answer = await api.post(CORPUS[name])
    assert answer.status in (200, 202), answer.body


@pytest.mark.parametrize("name", RESPONSE_CORPUS)
async def test_the_corpus_of_responses_is_valid(api: Api, name: str) -> None:
    answer = await api.post(RESPONSE_CORPUS[name], RESPONSES)
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("name", ResponseCreateParamsBase.__annotations__)
async def test_a_field_of_responses_is_taken_or_refused_by_name(api: Api, name: str) -> None:
    if not any(name in request for request in RESPONSE_CORPUS.values()) and name != "previous_response_id":
        refused = await api.post({"model": MODEL, "input": "Hi", name: {"id": "x"}}, RESPONSES)
        assert (refused.status, refused.error["param"]) == (400, name)


def published_values() -> list[tuple[str, str]]:
    """Returns every value of every enumerated field."""
    fields = ChatCompletionRequest.model_json_schema()["properties"]
    kinds = ((name, kind) for name, field in fields.items() for kind in field.get("anyOf", ()))
    return [(name, value) for name, kind in kinds for value in kind.get("enum", ())]


@pytest.mark.parametrize(("field", "value"), published_values())
async def test_every_published_value_is_answered(api: Api, field: str, value: str) -> None:
    answer = await api.post(ask(**{field: value}))
    assert answer.status == 200, answer.body


@repeatable
@given(body=bodies(), stream=st.booleans())
async def test_requests(api: Api, body: bytes, stream: bool) -> None:
    path = f"{COMPLETIONS}/stream" if stream else COMPLETIONS
    assert_no_surprise(await api.call("POST", path, data=body, headers=JSON))


@examples(100)
@given(body=bodies(list(RESPONSE_CORPUS.values())), counted=st.booleans())
async def test_requests_for_responses(api: Api, body: bytes, counted: bool) -> None:
    path = f"{RESPONSES}/input_tokens" if counted else RESPONSES
    assert_no_surprise(await api.call("POST", path, data=body, headers=JSON))


@repeatable
@given(body=st.binary(max_size=100))
async def test_bytes(api: Api, body: bytes) -> None:
    assert_no_surprise(await api.call("POST", COMPLETIONS, data=body, headers=JSON))


# ── everything else ──

QUERIES = st.dictionaries(
    st.sampled_from(
        ["status", "model", "code", "after", "limit", "order", "wait", "starting_after", "metadata", "metadata[a]", "x"]
    ),
    st.one_of(st.text(max_size=10), NUMBERS.filter(lambda number: not 0 < number < 400).map(str)),
    max_size=3,
)
IDS = st.sampled_from(["chatcmpl-0", "%00", "%ff", "..", "a%2Fb", "%F0%9F%98%80", "~" * 201, "-1", "*", "{}"])
READ = st.sampled_from(
    [
        *("/v1/jobs", "/v1/jobs/{}", "/v1/jobs/{}/result", "/v1/jobs/{}/events", "/v1/models", "/v1/models/{}"),
        *(f"{RESPONSES}/{{}}", f"{RESPONSES}/{{}}/input_items"),
        *(COMPLETIONS, f"{COMPLETIONS}/{{}}", f"{COMPLETIONS}/{{}}/messages", "/v1/nowhere/{}"),
    ]
)
WRITTEN = st.sampled_from(
    [
        *("/v1/jobs/{}/cancel", "/v1/jobs/{}/retry", f"{COMPLETIONS}/{{}}", "/v1/models/{}"),
        *(f"{RESPONSES}/{{}}", f"{RESPONSES}/{{}}/cancel"),
    ]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("if-none-match", "last-event-id", "x-request-id", "accept", "origin", "range", "authorization", "prefer"),
            *("cancel-after", "idempotency-key", "x-stainless-read-timeout", "x-stainless-retry-count", "traceparent"),
            *("content-type", "x-on-disconnect", "accept-encoding", "access-control-request-method"),
        ]
    ),
    st.one_of(
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
        st.sampled_from(["respond-async", "wait=1", "wait=nan", "1e999", "-1", "0", "continue", "Bearer x", "*/*"]),
    ),
    max_size=3,
)


@repeatable
@given(path=READ, job_id=IDS, query=QUERIES, headers=HEADERS)
async def test_queries_and_headers(
    api: Api, path: str, job_id: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    url = URL(path.format(job_id), encoded=True).with_query(query)
    assert_no_surprise(await api.call("GET", url, headers=headers))


@repeatable
@given(path=WRITTEN, job_id=IDS, method=st.sampled_from(["POST", "DELETE", "PUT"]), body=st.binary(max_size=20))
async def test_methods_and_ids(api: Api, path: str, job_id: str, method: str, body: bytes) -> None:
    url = URL(path.format(job_id), encoded=True)
    assert_no_surprise(await api.call(method, url, data=body, headers=JSON))


@repeatable
@given(name=st.sampled_from(["sampling", "streamed", "a job", "whose"]), headers=HEADERS)
async def test_headers_of_good_requests(api: Api, name: str, headers: dict[str, str]) -> None:
    answer = await api.call("POST", COMPLETIONS, json=CORPUS[name], headers=headers)
    if answer.status != 504:  # It was given no time.
        assert_no_surprise(answer)
