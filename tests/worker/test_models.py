"""One worker with several models: it takes from all of their queues, and no backlog starves another model."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from shared.job import JobStatus, QueueName, Tier
from tests.contract.performers import QUEUE
from tests.support.wait_until import wait_until
from tests.worker.scripted import Bench, ScriptedEngine, open_bench
from tests.worker.test_consumer import over, working
from worker.engines.base import ModelCard
from worker.models import ModelQueues, announced
from worker.openai import translate

OTHER, THIRD = "other-model", "third-model"


def queue(model: str, tier: Tier = Tier.DEFAULT) -> QueueName:
    return QueueName(model, tier)


class ManyModels(ScriptedEngine):
    """Serves what `serve` said last."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self._cards: Sequence[ModelCard] = (self.card,)
        self._changed = asyncio.Event()

    @property
    def cards(self) -> Sequence[ModelCard]:
        return self._cards

    def serve(self, *models: str) -> None:
        self._cards = [ModelCard(model, "scripted", context_length=len(model)) for model in models]
        self._changed.set()

    async def cards_changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()


def many(bench: Bench, *models: str, concurrency: int = 1) -> ManyModels:
    engine = bench.engine = ManyModels(concurrency=concurrency)
    engine.serve(*models)
    return engine


def test_the_model_that_waited_longest_is_next() -> None:
    queues = ModelQueues()
    for model in ("a", "b", "c"):
        queues.add(model)
    at_hand = {queue("a"): 1000, queue("b"): 1, queue("c", Tier.FLEX): 5}
    taken = Counter[str]()
    for _ in range(10):
        chosen = queues.next_of(Tier.DEFAULT, at_hand)
        taken[chosen.model] += 1
        queues.started(chosen.model)
    assert taken == {"a": 5, "b": 5}
    queues.add("d")
    assert queues.next_of(Tier.DEFAULT, {**at_hand, queue("d"): 1}).model == "d"


def test_aliases_and_modalities_belong_to_the_main_model() -> None:
    cards = [ModelCard("b", "e", aliases=("listed",)), ModelCard("a", "e", parent="b")]
    b, a = announced(cards, "b", ("x", "y = a"), ("text",))
    assert (b.aliases, b.modalities, b.parent) == (("x", "listed"), ("text",), None)
    assert (a.aliases, a.modalities, a.parent) == (("y",), (), "b")
    (alone,) = announced(cards[1:], "b", ("x",), ("text",))
    assert (alone.aliases, alone.modalities) == ((), ()), "while the main model is away nobody has its names"


async def test_a_backlog_does_not_starve_another_model() -> None:
    async with open_bench() as bench:
        many(bench, QUEUE.model, OTHER)
        backlog = [await bench.submit("answer", queue=queue(QUEUE.model)) for _ in range(10)]
        other = [await bench.submit("answer", queue=queue(OTHER)) for _ in range(3)]
        async with working(bench):
            assert set(await over(bench, *backlog, *other)) == {JobStatus.COMPLETED}
        asked = [request["model"] for request in bench.engine.requests]
        assert asked[:6].count(OTHER) == 3, asked
        assert [request["model"] for request in bench.engine.requests[6:]] == [QUEUE.model] * 7


async def test_tiers_come_before_models() -> None:
    async with open_bench() as bench:
        many(bench, QUEUE.model, OTHER)
        flex = await bench.submit("answer", queue=queue(OTHER, Tier.FLEX))
        default = [await bench.submit("answer", queue=queue(QUEUE.model)) for _ in range(3)]
        async with working(bench):
            await over(bench, flex, *default)
        assert [request["model"] for request in bench.engine.requests] == [QUEUE.model] * 3 + [OTHER]


async def test_models_that_come_and_go_are_served_and_announced() -> None:
    async with open_bench() as bench:
        engine = many(bench, QUEUE.model)

        async def announces(*models: str) -> bool:
            *_, worker = await bench.backend.registry.workers()
            return sorted(model.id for model in worker.models) == sorted(models)

        async with working(bench):
            waiting = await bench.submit("answer", queue=queue(OTHER))
            engine.serve(QUEUE.model, OTHER)
            await over(bench, waiting)
            await wait_until(lambda: announces(QUEUE.model, OTHER), "both to be announced")

            engine.serve(QUEUE.model, THIRD)
            await wait_until(lambda: announces(QUEUE.model, THIRD), "the other to be gone")
            left, taken = [await bench.submit("answer", queue=queue(model)) for model in (OTHER, THIRD)]
            await over(bench, taken)
            assert (await bench.record(left)).status is JobStatus.QUEUED
            assert {model.id for model in await bench.backend.registry.models()} == {QUEUE.model, OTHER, THIRD}

            engine.serve(QUEUE.model, OTHER)
            await over(bench, left)


async def test_a_model_that_appears_on_an_ill_engine_waits() -> None:
    async with open_bench() as bench:
        engine = many(bench, QUEUE.model)
        async with working(bench):
            engine.fall_ill()
            await wait_until(lambda: engine.waiting_for_health == 2, "the worker to wait")
            waiting = await bench.submit("answer", queue=queue(OTHER))
            engine.serve(QUEUE.model, OTHER)
            engine.recover()
            await over(bench, waiting)


async def test_limits_are_those_of_the_jobs_model() -> None:
    async with open_bench() as bench:
        many(bench, QUEUE.model, OTHER)
        for model in (QUEUE.model, OTHER):
            job = await bench.submit("answer", queue=queue(model), request={"max_tokens": 1000})
            async with working(bench):
                await over(bench, job)
        assert [request["max_tokens"] for request in bench.engine.requests] == [len(QUEUE.model), len(OTHER)]


async def test_a_model_without_a_known_context_gets_a_default_limit() -> None:
    async with open_bench() as bench:
        bench.with_place(default_max_tokens=77)
        for asked in ({}, {"max_completion_tokens": 5}):
            await bench.submit("answer", request=asked)
            await bench.run()
        unlimited, limited = bench.engine.requests
        assert unlimited["max_tokens"] == 77
        assert "max_tokens" in unlimited.added, "a server that refuses it is asked without it"
        assert limited["max_completion_tokens"] == 5
        assert "max_tokens" not in limited


def test_a_known_context_needs_no_default() -> None:
    assert translate.bounded(translate.EngineRequest(), 4096, 77) == {}
