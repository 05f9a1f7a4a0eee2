"""Which line of a batch is next: no model holds up another, and no line is left out or taken twice, whoever dies."""

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
from producer.batches.execution.line_scheduler import MOST_BEHIND, LineScheduler
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


def feeding(models: str, batch: Batch | None = None) -> tuple[LineScheduler, Text]:
    text = Text("".join(f"{model}\n" for model in models).encode())

    def open_source(number: int, start: int) -> LineSource:
        return LineSource(text, "t", "f", limit=100, number=number, start=start)  # pyright: ignore[reportArgumentType]

    return LineScheduler(batch or batch_of(models), open_source, model_of), text


def model_of(raw: RawLine) -> str:
    assert raw.data is not None
    return raw.data.decode()


async def taken(feed: LineScheduler, rooms: dict[str, int]) -> list[tuple[int, str]]:
    """What is taken until nothing has room; uses it up."""
    found: list[tuple[int, str]] = []
    feed.begin()
    while (each := await feed.next(lambda model: rooms.get(model, 0))) is not None:
        model, raw = each
        assert model == model_of(raw)
        rooms[model] -= 1
        found.append((raw.number, model))
    return found


async def test_lines_come_in_order_while_there_is_room() -> None:
    feed, _ = feeding("abab")
    assert await taken(feed, {"a": 2, "b": 2}) == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]
    assert await taken(feed, {"a": 9, "b": 9}) == []
    assert feed.ended


async def test_a_model_without_room_holds_up_no_other() -> None:
    feed, _ = feeding("a" * 1000 + "b" * 3 + "a")
    assert await taken(feed, {"a": 1, "b": 2}) == [(1, "a"), (1001, "b"), (1002, "b")]
    assert await taken(feed, {"b": 5}) == [(1003, "b")]
    assert not feed.ended
    rest = await taken(feed, {"a": 2000, "b": 5})
    assert rest == [*((number, "a") for number in range(2, 1001)), (1004, "a")]
    assert await taken(feed, {"a": 1}) == []
    assert feed.ended


async def test_what_is_left_stands_in_a_few_places() -> None:
    feed, _ = feeding("ab" * 1000)
    await taken(feed, {"b": 500})
    noted = feed.noted(batch_of("ab"))
    assert [(lane.model, lane.number, lane.start) for lane in noted.behind] == [("a", 1, 0)]
    assert noted.next_line == 1002


async def test_a_single_model_is_not_looked_past() -> None:
    feed, text = feeding("a" * 1000)
    assert len(await taken(feed, {"a": 3})) == 3
    assert len(text.reads) < 5


async def test_nobody_looks_ahead_where_no_other_model_has_room() -> None:
    feed, text = feeding("ab" * 1000)
    assert len(await taken(feed, {"a": 2, "b": 1})) == 3
    assert len(text.reads) < 5


async def test_falling_behind_and_catching_up_reads_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CHUNK", 10_000)
    feed, text = feeding("ab" * 100)
    for _ in range(100):
        await taken(feed, {"a": 1})
        await taken(feed, {"b": 1})
    await taken(feed, {"a": 1, "b": 1})
    assert feed.ended
    assert len(text.reads) == 1


async def test_only_so_many_fall_behind() -> None:
    many = "".join(chr(ord("A") + number) for number in range(MOST_BEHIND + 1))
    feed, _ = feeding(many + "z")
    assert await taken(feed, {"z": 1}) == []
    assert len(feed.noted(batch_of("ab")).behind) == MOST_BEHIND
    assert await taken(feed, {"z": 1, many[-1]: 1}) == [(MOST_BEHIND + 1, many[-1]), (MOST_BEHIND + 2, "z")]


async def test_a_long_search_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LOOKED_AT", 100)
    feed, _ = feeding("a" * 120 + "b")
    turns = 1
    while not (found := await taken(feed, {"b": 1})):
        assert feed.paused
        turns += 1
    assert (found, turns) == ([(121, "b")], 3)


@given(st.text("abc", min_size=1, max_size=60), st.integers(0, 2**32))
def test_every_line_is_taken_once_whatever_dies_when(models: str, seed: int) -> None:
    asyncio.run(live(models, random.Random(seed)))


async def live(models: str, dice: random.Random) -> None:
    """Runners that take lines, end some of them, note how far they are, take more, and die."""
    batch, done, noted_open = batch_of(models), Counter[int](), set[int]()
    while True:
        feed, _ = feeding(models, batch)
        working = set(noted_open)
        for _ in range(dice.randint(1, 4)):
            new = {number for number, _ in await taken(feed, {model: dice.randint(0, 4) for model in "abc"})}
            assert not new & working, "taken twice"
            working |= new
            ended = {number for number in working if dice.random() < 0.5}
            working -= ended
            done.update(ended)
            batch, noted_open = feed.noted(batch), set(working)
            if feed.ended and not working:
                assert done == Counter(range(1, len(models) + 1))
                return
        await taken(feed, dict.fromkeys("abc", 2))
