"""A job whose engine connection breaks goes on by the ids of its tokens, and ends as the undisturbed one does."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from shared.job import JobStatus, Tier
from tests.contract.performers import QUEUE
from tests.worker.engines.requests import ask, read
from tests.worker.engines.vllm.model import Model
from tests.worker.engines.vllm.server import VllmServer
from tests.worker.scripted import Bench, open_bench
from worker.engines.base import Engine, EngineRequest
from worker.engines.open_engine import EngineSettings, open_engine

GREEDY = {"temperature": 0, "max_tokens": 60, "seed": 7}


@dataclass
class Served:
    server: VllmServer
    engine: Engine
    bench: Bench

    async def answer(self, cuts: list[int], **request: Any) -> dict[str, Any]:
        """The result of a job whose attempts are cut after so many chunks. Its log says the same, without ids."""
        self.server.bodies.clear()
        self.server.cut_after = [*cuts]
        job = await self.bench.submit("what does the fox say?", request=request)
        record = await self.bench.run_until(JobStatus.COMPLETED, job)
        assert record.result is not None
        frames = await self.bench.frames(job)
        assert "token_ids" not in str(frames) or request.get("return_token_ids")
        result = orjson.loads(record.result)
        parts = [part for each in frames if each != "[DONE]" for part in each["choices"] if part["index"] == 0]
        said = "".join(part["delta"].get("content") or "" for part in parts)
        assert said == result["choices"][0]["message"]["content"]
        assert await self.bench.backend.log.read_progress(job.id) == b""
        return {"choices": result["choices"], "usage": result["usage"]}


@pytest.fixture(params=[0, 1, 2])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    model = Model(request.param, babbles=0.5, ends=0.0)
    async with VllmServer(model).running() as server, open_bench() as bench:
        engine = open_engine(EngineSettings("openai", url=server.url, model="m", model_id=QUEUE.model, concurrency=4))
        await engine.start()
        bench.with_place(engine=engine)
        yield Served(server, engine, bench)
        await engine.close()


async def test_a_greedy_answer_is_the_undisturbed_one(served: Served) -> None:
    undisturbed = await served.answer([], **GREEDY)
    for cut in (1, 5, 9, 14, 20):
        assert await served.answer([cut], **GREEDY) == undisturbed
        assert served.server.asked("/completions") or not cut
        assert len(served.server.asked("/chat/completions")) == 1, "it does not start again"


async def test_stop_strings_and_ends_are_the_undisturbed_ones(served: Served) -> None:
    text: str = (await served.answer([], **GREEDY))["choices"][0]["message"]["content"]
    dice = random.Random(5)
    for _ in range(6):
        at = dice.randrange(len(text) // 2, len(text) - 4)
        request = {**GREEDY, "stop": ["never", text[at : at + 4]]}
        assert await served.answer([dice.randrange(2, 12)], **request) == await served.answer([], **request)


async def test_a_completion_gets_ids_and_the_same_sampling(served: Served) -> None:
    await served.answer([12], **GREEDY, top_p=0.9, user="u", chat_template_kwargs={"a": True}, min_tokens=40)
    (first,), (rest,) = served.server.asked("/chat/completions"), served.server.asked("/completions")
    assert first["return_token_ids"] is rest["return_token_ids"] is True
    assert {name: rest[name] for name in ("temperature", "seed", "top_p", "user")} == {
        **{name: GREEDY[name] for name in ("temperature", "seed")},
        "top_p": 0.9,
        "user": "u",
    }
    made = 60 - rest["max_tokens"]
    assert made > 0
    assert rest["min_tokens"] == 40 - made
    assert "messages" not in rest
    assert all(isinstance(each, int) for each in rest["prompt"])


async def test_a_greedy_engine_that_makes_another_text_goes_on_after_what_was_sent(served: Served) -> None:
    """As one whose numbers depend on the other requests in its batch."""
    request = {**GREEDY, "stop": ["holds text back"]}
    before = (await served.answer([], **request))["choices"][0]["message"]["content"]
    served.server.other = Model(99, babbles=0.0, ends=0.0)
    repeated: list[str] = []
    for cut in range(14, 26):
        await served.answer([cut], **request)
        repeated += [asked["prompt"] for asked in served.server.asked("/tokenize")]
    assert repeated
    assert all(text in before for text in repeated), "what the client had of the tokens that were made again"


async def test_a_sampled_answer_keeps_its_limit(served: Served) -> None:
    request = {"temperature": 1.0, "max_tokens": 60, "seed": 7}
    answer = await served.answer([15], **request)
    assert served.server.asked("/completions")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] >= 60


async def test_a_server_without_ids_is_learned_and_goes_on_by_text(served: Served) -> None:
    served.server.returns_ids = False
    await served.answer([6], **GREEDY)
    assert not served.server.asked("/completions")
    for _ in range(2):
        await served.answer([], **GREEDY)
    (asked,) = served.server.asked("/chat/completions")
    assert "return_token_ids" not in asked


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"logprobs": True},
        {"presence_penalty": 1.0},
        {"structured_outputs": {"regex": "a+"}},
    ],
    ids=str,
)
async def test_what_a_completion_cannot_continue_is_replayed(served: Served, fields: dict[str, Any]) -> None:
    """Structured outputs are not known to say how the text looks, so they go by text."""
    await served.answer([9], **GREEDY, **fields)
    assert not served.server.asked("/completions")
    assert "return_token_ids" not in served.server.asked("/chat/completions")[0]


@pytest.mark.parametrize("lacks", ["the same tokenizer", "completions"])
async def test_a_server_that_has_no_use_for_the_ids_goes_on_by_text(served: Served, lacks: str) -> None:
    """Another worker of the model may serve it otherwise."""
    served.server.other_tokens = lacks == "the same tokenizer"
    served.server.has_completions = lacks != "completions"
    await served.answer([12], **GREEDY)
    *_, last = served.server.asked("/chat/completions")
    assert last["continue_final_message"] is True
    assert len(served.server.asked("/completions")) == (lacks == "completions")


async def test_several_greedy_choices_are_asked_for_one_by_one(served: Served) -> None:
    answer = await served.answer([], **GREEDY, n=3)
    assert len(answer["choices"]) == 3
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 1
    assert answer["usage"]["completion_tokens"] == 180


async def test_a_client_that_asks_for_ids_gets_them(served: Served) -> None:
    answer = await served.answer([], **GREEDY, return_token_ids=True)
    assert len(answer["choices"][0]["token_ids"]) == 60


async def priorities(served: Served, tier: Tier, **fields: Any) -> list[int | None]:
    """With which priority a streamed and an unary request of a tier reach the server, tries included."""
    served.server.bodies.clear()
    request = EngineRequest(ask(**GREEDY, **fields))
    request.tier = str(tier)
    await read(served.engine, request)
    await served.engine.complete(request)
    return [body.get("priority") for _, body in served.server.bodies]


async def test_tiers_are_vllms_priorities(served: Served) -> None:
    assert await priorities(served, Tier.PRIORITY) == [-1, -1]
    assert await priorities(served, Tier.DEFAULT) == [None, None]
    assert await priorities(served, Tier.FLEX) == [1, 1]


async def test_a_client_does_not_choose_its_priority(served: Served) -> None:
    assert await priorities(served, Tier.FLEX, priority=-1000) == [1, 1]
    assert await priorities(served, Tier.DEFAULT, priority=-1000) == [0, 0]


async def test_a_server_that_does_not_schedule_by_priority_is_learned(served: Served) -> None:
    served.server.has_priorities = False
    assert await priorities(served, Tier.FLEX) == [1, None, None]
    assert await priorities(served, Tier.FLEX, priority=-1000) == [None, None]
