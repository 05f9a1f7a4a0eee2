"""Complete answers, and all ways of splitting them into chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from tests.worker.scripted import USAGE, chunk, delta
from worker.engines.base import Chunk

WORDS = st.text(alphabet='ab \n"é😀', max_size=12)


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Choice:
    content: str
    calls: Sequence[Call] = ()


@dataclass(frozen=True)
class Answer:
    choices: Sequence[Choice]
    usage: dict[str, int] = field(default_factory=lambda: USAGE)

    def completion(self) -> list[dict[str, Any]]:
        return [completed(index, choice) for index, choice in enumerate(self.choices)]


def completed(index: int, choice: Choice) -> dict[str, Any]:
    content = choice.content or (None if choice.calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    finish = "tool_calls" if choice.calls else "stop"
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


CALLS = st.lists(st.builds(Call, st.just("call"), st.sampled_from(["look", "find"]), WORDS), max_size=2)
ANSWERS = st.builds(Answer, st.lists(st.builds(Choice, WORDS, CALLS), min_size=1, max_size=2))
TEXT_ANSWERS = st.builds(Answer, st.lists(st.builds(Choice, WORDS), min_size=1, max_size=1))


@st.composite
def pieces_of(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=4))) if text else []
    edges = [0, *cuts, len(text)]
    return [text[start:end] for start, end in pairwise(edges) if start < end]


@st.composite
def chunks_of(draw: st.DrawFn, answer: Answer, ids: str = "") -> list[Chunk]:
    """Returns the answer as chunks; choices may be interleaved. `ids`: prefix of tool calls' ids."""
    lines = [draw(parts_of(index, choice, ids)) for index, choice in enumerate(answer.choices)]
    order = draw(st.permutations([index for index, line in enumerate(lines) for _ in line]))
    streams = [iter(line) for line in lines]
    return [*(chunk(next(streams[index])) for index in order), chunk(usage=answer.usage)]


@st.composite
def parts_of(draw: st.DrawFn, index: int, choice: Choice, ids: str) -> list[dict[str, Any]]:
    parts = [delta("", index=index, role="assistant")] if draw(st.booleans()) else []
    parts += [delta(piece, index=index) for piece in draw(pieces_of(choice.content))]
    for at, call in enumerate(choice.calls):
        head = {"index": at, "id": ids + call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        parts.append(delta(index=index, tool_calls=[head]))
        parts += [
            delta(index=index, tool_calls=[{"index": at, "function": {"arguments": piece}}])
            for piece in draw(pieces_of(call.arguments))
        ]
    return [*parts, delta(index=index, finish="tool_calls" if choice.calls else "stop")]
