"""The line scheduler: a model at its limit delays no other one, and each line is taken once, also across restarts."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.batches.document import Batch, Output
from producer.batches.execution import line_scheduler as module
from producer.batches.execution.line_scheduler import MOST_DEFERRED, LineScheduler
from producer.batches.input import reader
from producer.batches.input.lines import RawLine
from producer.batches.input.reader import LineSource


@dataclass
class Text:
    """A file, as LineSource reads it."""

    data: bytes
    reads: list[int] = field(default_factory=list[int])

    async def get(self, tenant: str, file_id: str) -> Any:
        return SimpleNamespace(size=len(self.data))

    async def content(self, tenant: str, entry: Any) -> Any:
        return entry

    async def read(self, tenant: str, file_id: str, start: int, end: int) -> AsyncGenerator[bytes]:
        self.reads.append(start)
        yield self.data[start:end]


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "CHUNK", 7)
        yield


def batch_of(models: str, **fields: Any) -> Batch:
    """Each letter of `models` is a line for that model."""
    asked = tuple(sorted(set(models)))
    named = {"model": asked[0]} if len(asked) == 1 else {"asked": asked}
    return Batch(
        id="b",
        tenant="t",
        endpoint="/",
        input_file_id="f",
        completion_window="24h",
        created_at=0,
        expires_at=1,
        output=Output(file_id="o"),
        error=Output(file_id="e"),
        **named | fields,
    )


def scheduling(models: str, batch: Batch | None = None) -> tuple[LineScheduler, Text]:
    text = Text("".join(f"{model}\n" for model in models).encode())

    def open_source(number: int, start: int) -> LineSource:
        return LineSource(text, "t", "f", limit=100, number=number, start=start)  # pyright: ignore[reportArgumentType]

    return LineScheduler(batch or batch_of(models), open_source, model_of), text


def model_of(raw: RawLine) -> str:
    assert raw.data is not None
    return raw.data.decode()


async def taken(scheduler: LineScheduler, rooms: dict[str, int]) -> list[tuple[int, str]]:
    """Takes lines until no model has room; counts `rooms` down."""
    found: list[tuple[int, str]] = []
    scheduler.begin_pass()
    while (each := await scheduler.next(lambda model: rooms.get(model, 0))) is not None:
        model, raw = each
        assert model == model_of(raw)
        rooms[model] -= 1
        found.append((raw.number, model))
    return found


async def test_lines_are_taken_in_order_while_there_is_room() -> None:
    scheduler, _ = scheduling("abab")
    assert await taken(scheduler, {"a": 2, "b": 2}) == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]
    assert await taken(scheduler, {"a": 9, "b": 9}) == []
    assert scheduler.ended


async def test_a_model_without_room_does_not_delay_another_one() -> None:
    scheduler, _ = scheduling("a" * 1000 + "b" * 3 + "a")
    assert await taken(scheduler, {"a": 1, "b": 2}) == [(1, "a"), (1001, "b"), (1002, "b")]
    assert await taken(scheduler, {"b": 5}) == [(1003, "b")]
    assert not scheduler.ended
    rest = await taken(scheduler, {"a": 2000, "b": 5})
    assert rest == [*((number, "a") for number in range(2, 1001)), (1004, "a")]
    assert await taken(scheduler, {"a": 1}) == []
    assert scheduler.ended


async def test_the_progress_names_the_position_of_each_deferred_model() -> None:
    scheduler, _ = scheduling("ab" * 1000)
    await taken(scheduler, {"b": 500})
    progress = scheduler.with_progress(batch_of("ab"))
    assert [(each.model, each.number, each.start) for each in progress.deferred] == [("a", 1, 0)]
    assert progress.next_line == 1002


async def test_a_batch_with_one_model_skips_no_lines() -> None:
    scheduler, text = scheduling("a" * 1000)
    assert len(await taken(scheduler, {"a": 3})) == 3
    assert len(text.reads) < 5


async def test_no_lines_are_skipped_when_no_other_model_has_room() -> None:
    scheduler, text = scheduling("ab" * 1000)
    assert len(await taken(scheduler, {"a": 2, "b": 1})) == 3
    assert len(text.reads) < 5


async def test_a_deferral_within_one_chunk_reads_the_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK", 10_000)
    scheduler, text = scheduling("ab" * 100)
    for _ in range(100):
        await taken(scheduler, {"a": 1})
        await taken(scheduler, {"b": 1})
    await taken(scheduler, {"a": 1, "b": 1})
    assert scheduler.ended
    assert len(text.reads) == 1


async def test_the_number_of_deferred_models_is_bounded() -> None:
    many = "".join(chr(ord("A") + number) for number in range(MOST_DEFERRED + 1))
    scheduler, _ = scheduling(many + "z")
    assert await taken(scheduler, {"z": 1}) == []
    assert len(scheduler.with_progress(batch_of("ab")).deferred) == MOST_DEFERRED
    assert await taken(scheduler, {"z": 1, many[-1]: 1}) == [(MOST_DEFERRED + 1, many[-1]), (MOST_DEFERRED + 2, "z")]


async def test_a_pass_that_skips_many_bytes_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SKIPPED", 100)
    scheduler, _ = scheduling("a" * 120 + "b")
    passes = 1
    while not (found := await taken(scheduler, {"b": 1})):
        assert scheduler.paused
        passes += 1
    assert (found, passes) == ([(121, "b")], 3)


@given(st.text("abc", min_size=1, max_size=60), st.integers(0, 2**32))
def test_every_line_is_taken_once_whenever_runners_die(models: str, seed: int) -> None:
    asyncio.run(run_with_crashes(models, random.Random(seed)))


async def run_with_crashes(models: str, dice: random.Random) -> None:
    """Runners that take lines, end some, store their progress, take more lines, and die."""
    batch, done, stored_open = batch_of(models), Counter[int](), set[int]()
    while True:
        scheduler, _ = scheduling(models, batch)
        working = set(stored_open)
        for _ in range(dice.randint(1, 4)):
            new = {number for number, _ in await taken(scheduler, {model: dice.randint(0, 4) for model in "abc"})}
            assert not new & working, "taken twice"
            working |= new
            ended = {number for number in working if dice.random() < 0.5}
            working -= ended
            done.update(ended)
            batch, stored_open = scheduler.with_progress(batch), set(working)
            if scheduler.ended and not working:
                assert done == Counter(range(1, len(models) + 1))
                return
        await taken(scheduler, dict.fromkeys("abc", 2))
