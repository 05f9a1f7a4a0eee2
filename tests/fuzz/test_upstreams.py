"""Whatever an engine's server writes to its socket, the worker gets whole answers or one clear error."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import orjson
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import EngineError, EngineRefused
from shared.frames import DONE
from tests.fuzz.target import HANG
from tests.support.fuzz import examples
from tests.support.http_bytes import chunked, damaged
from tests.worker.engines.openai.accents import ACCENTS
from tests.worker.engines.requests import ask, read
from tests.worker.engines.upstream_server import ANSWER, UpstreamServer, bare
from worker.engines.base import Engine
from worker.engines.open_engine import EngineSettings, open_engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATUS_LINES = (
    *("HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 200", "HTTP/1.1 204 No"),
    *("HTTP/1.1 400 Bad", "HTTP/1.1 429 Many", "HTTP/1.1 503 Busy", "HTTP/1.1 302 Found", "HTTP/1.1 100 Continue"),
    *("HTTP/1.1 999 Odd", "HTTP/2 200", "ICY 200 OK", "HTTP/1.1 -1 x", ""),
)
FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "content-length", "transfer-encoding", "content-encoding", "location", "x"]),
        st.sampled_from(["text/event-stream", "application/json", "5", "-1", "chunked", "gzip", "br", "/", "\xff", ""]),
    ),
    max_size=2,
)
BODIES = [ANSWER, *(accent.body for accent in ACCENTS.values())]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[UpstreamServer]:
    server = UpstreamServer()
    await server.start()
    yield server
    await server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(upstream: UpstreamServer) -> AsyncIterator[Engine]:
    engine = open_engine(EngineSettings("openai", url=upstream.url, model="m", model_id="m"))
    await engine.start()
    yield engine
    await engine.close()


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """An answer's head and body, in the pieces in which they are written."""
    body = draw(st.one_of(st.sampled_from(BODIES), damaged(st.sampled_from(BODIES)), st.binary(max_size=100)))
    body = draw(st.sampled_from([body, body, body + DONE, body + b"data: " + b"x" * 70_000]))
    fields = draw(FIELDS)
    match draw(st.sampled_from(["chunks", "chunks", "length", "until closed"])):
        case "chunks":
            fields, body = [("transfer-encoding", "chunked"), *fields], draw(chunked(body))
        case "length":
            fields = [("content-length", str(len(body))), *fields]
        case _:
            pass
    lines = [draw(st.sampled_from(STATUS_LINES)), "content-type: text/event-stream"]
    head = "\r\n".join((*lines, *(f"{name}: {value}" for name, value in fields), "", "")).encode("latin-1")
    data = head + body
    if not draw(st.integers(0, 3)):
        data = draw(damaged(st.just(data)))
    cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=3))})
    return [data[start:end] for start, end in pairwise(cuts)]


@examples(80)
@given(parts=answers(), then=st.sampled_from(["abort", "close"]))
async def test_an_answer_is_whole_or_one_clear_error(
    upstream: UpstreamServer, engine: Engine, parts: list[bytes], then: str
) -> None:
    upstream.behaviour = bare(*parts, then=then)
    try:
        async with asyncio.timeout(HANG):
            chunks = await read(engine, ask())
    except (EngineError, EngineRefused) as error:
        assert error.message
    else:
        assert any(choice["finish_reason"] for chunk in chunks for choice in chunk["choices"])
        orjson.dumps(chunks)


async def test_the_engine_goes_on(upstream: UpstreamServer, engine: Engine) -> None:
    """Connections that were broken off are in nobody's way."""
    upstream.behaviour = bare(b"HTTP/1.1 200 OK\r\n\r\nnonsense")
    with pytest.raises(EngineError):
        await read(engine, ask())
    upstream.behaviour = UpstreamServer().behaviour
    assert await read(engine, ask())
