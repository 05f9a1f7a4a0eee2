"""What every engine promises the worker, by a real vLLM."""

from tests.vllm.server import Vllm
from tests.worker.engines.requests import ask, read
from tests.worker.engines.test_engine_contract import *  # noqa: F403
from worker.engines.base import EngineRequest
from worker.engines.open_engine import EngineSettings, open_engine


async def test_a_server_without_priorities_is_learned_and_the_answer_comes(plain: Vllm) -> None:
    engine = open_engine(EngineSettings("openai", url=plain.url, model=plain.model))
    await engine.start()
    request = EngineRequest(ask())
    request.tier = "flex"
    try:
        for _ in range(2):
            assert (await read(engine, request))[-1]["usage"]["completion_tokens"] > 0
            assert (await engine.complete(request))["usage"]["completion_tokens"] > 0
    finally:
        await engine.close()
