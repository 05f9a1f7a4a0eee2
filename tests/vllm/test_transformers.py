"""`transformers serve`: a second real server. It lists no models, counts nothing in streams, has no limit of its
own, and ignores `max_completion_tokens` (so `engine_max_tokens` is set).
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ignite.worker_process import running_engine, working
from shared.backends.embedded.backend import open_embedded
from tests.producer.api import Api, running_api, settings_for_tests
from tests.support.server import HostServer, accepts_connections, free_ports
from tests.support.wait_until import wait_until
from tests.vllm.server import ENVIRONMENT, STARTS_WITHIN, environment

LIMIT = 20


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    hub = models / "huggingface"
    (hub / "hub").mkdir(parents=True)
    command = [str(ENVIRONMENT / "bin" / "transformers"), "serve", str(models / "plain")]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = HostServer([*command, *options], hub, {**environment(), "HF_HOME": str(hub)})
    process.start()
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(wait_until(lambda: accepts_connections(port), "transformers to listen", within=STARTS_WITHIN))
        yield f"http://127.0.0.1:{port}/v1"
        runner.run(process.close())


@pytest.fixture
async def api(server: str, models: Path) -> AsyncGenerator[Api]:
    engine_of = {"engine": "openai", "engine_url": server, "model": str(models / "plain"), "model_id": "tiny"}
    settings = settings_for_tests(**engine_of, engine_max_tokens=True, default_max_tokens=LIMIT)
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(open_embedded(None))
        engine = await stack.enter_async_context(running_engine(settings))
        await stack.enter_async_context(working(backend, engine, settings))
        yield await stack.enter_async_context(running_api(backend, settings, worker=False))


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_an_answer_without_a_limit_ends(api: Api, stream: bool) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    answer = await api.post(body)
    assert answer.status == 200, answer.body
    last = answer.frames[-1] if stream else answer.json
    assert last["usage"]["completion_tokens"] == LIMIT
    ends = [
        choice["finish_reason"] for frame in (answer.frames if stream else [answer.json]) for choice in frame["choices"]
    ]
    assert ends[-1] == "length"


async def test_a_limit_of_the_clients_counts(api: Api) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 5}
    assert (await api.post(body)).json["usage"]["completion_tokens"] == 5
