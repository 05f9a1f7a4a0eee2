"""Whatever is sent, llama.cpp answers it or it is a bad request: never a failure, never anything but JSON."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from tests.producer.api import COMPLETIONS, Answer
from tests.producer.test_fuzz import assert_no_surprise
from tests.support.corpus import CORPUS
from tests.support.fuzz import examples
from tests.support.mutations import bodies

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOR_THE_DEMO = [request | {"model": "demo"} for request in CORPUS.values()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(demo_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(demo_url.removesuffix("/v1")) as session:
        yield session


@examples(60)
@given(body=bodies(FOR_THE_DEMO), stream=st.booleans())
async def test_requests(http: aiohttp.ClientSession, body: bytes, stream: bool) -> None:
    path = f"{COMPLETIONS}/stream" if stream else COMPLETIONS
    async with http.post(path, data=body, headers={"content-type": "application/json"}) as response:
        answer = Answer(response.status, response.headers, await response.read())
    assert_no_surprise(answer)
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert all("error" not in frame for frame in answer.frames), answer.body
