"""A model of vLLM, as far as text and ids go: tokens whose bytes are parts of characters, a detokenizer that holds back
what is not whole, stop strings that are held back, and chunks of several tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

PIECES = ("the", " quick", "🦊", "é", "\n", " ", "ab", "日本", "x", "\t", "e", "a")
SPECIAL, END = 600, 601
WHOLE = [piece.encode() for piece in PIECES]
TOKENS: dict[int, bytes] = {number: bytes([number]) for number in range(256)} | dict(enumerate(WHOLE, start=300))
PARTS = [byte for piece in WHOLE for byte in piece if byte > 127]
LOST = "�"


def tokenized(text: str) -> list[int]:
    """Byte by byte: other ids than a model makes, and the same text."""
    return list(text.encode())


def detokenized(ids: Sequence[int]) -> str:
    return b"".join(TOKENS.get(each, b"") for each in ids).decode(errors="replace")


@dataclass
class Model:
    """What it makes next depends on the ids so far. `babbles`: how often it makes a byte that may be no character's."""

    seed: int
    babbles: float = 0.0
    ends: float = 0.01

    def next(self, ids: Sequence[int], draw: int = 0) -> int:
        choose = random.Random(f"{self.seed} {draw} {[*ids[-3:]]} {len(ids)}")
        before = _unfinished(ids)
        if before and choose.random() >= self.babbles:
            return before
        what = choose.random()
        if what < self.ends:
            return END
        if what < self.ends + 0.03:
            return SPECIAL
        if what < 0.3:
            return choose.choice(PARTS) if choose.random() < self.babbles else choose.choice(WHOLE)[0]
        return choose.randrange(300, 300 + len(WHOLE))


def _unfinished(ids: Sequence[int]) -> int | None:
    """The byte that goes on with a character of which some bytes were made one by one."""
    tail = bytes(each for each in ids[-4:] if each < 256)
    for size in (3, 2, 1):
        for whole in WHOLE:
            if 0 < size < len(whole) and tail[-size:] == whole[:size] and [*ids[-size:]] == [*whole[:size]]:
                return whole[size]
    return None


class DecodeStream:
    """The incremental detokenizer of the tokenizers library, primed with the prompt."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._ids, self._prefix, self._index = list(prompt), "", 0

    def step(self, each: int) -> str:
        if not self._prefix and self._ids:
            begin = detokenized(self._ids)
            if not begin.endswith(LOST):
                self._prefix, self._index = begin, len(self._ids)
        self._ids.append(each)
        text = detokenized(self._ids)
        if len(text.encode()) <= len(self._prefix.encode()) or text.endswith(LOST):
            return ""
        assert text.startswith(self._prefix)
        new, index = text[len(self._prefix) :], len(self._ids) - self._index
        self._ids = self._ids[self._index :]
        self._prefix, self._index = detokenized(self._ids), index
        return new


@dataclass
class Output:
    """One chunk."""

    ids: list[int]
    text: str
    finish_reason: str | None = None
    stop_reason: str | None = None


def outputs(model: Model, prompt: Sequence[int], request: dict[str, Any]) -> Iterator[Output]:
    """What vLLM sends for a prompt, one token a chunk. `request` has the fields of a completion."""
    stops: list[str] = request.get("stop") or []
    included = bool(request.get("include_stop_str_in_output"))
    held = max((len(stop) for stop in stops), default=1) - 1 if not included else 0
    stream, ids, text, sent = DecodeStream(prompt), list(prompt), "", 0
    draws = random.Random(request.get("seed")) if request.get("temperature") else None
    for made in range(1, request["max_tokens"] + 1):
        each = model.next(ids, draws.getrandbits(16) if draws else 0)
        ids.append(each)
        if each == END and not request.get("ignore_eos"):
            yield Output([each], text[sent:], "stop")
            return
        new = stream.step(each)
        text += new
        if (stop := _stopped(text, new, stops)) is not None:
            end = text.index(stop, max(0, len(text) - len(new) - len(stop) + 1))
            text = text[: end + (len(stop) if included else 0)]
            yield Output([each], text[sent:], "stop", stop)
            return
        last = made == request["max_tokens"]
        upto = len(text) if last else max(sent, len(text) - held)
        yield Output([each], text[sent:upto], "length" if last else None)
        sent = upto


def _stopped(text: str, new: str, stops: list[str]) -> str | None:
    found = [
        (at + len(stop), stop)
        for stop in stops
        if new and (at := text.find(stop, max(0, len(text) - len(new) - len(stop) + 1))) >= 0
    ]
    return min(found)[1] if found else None


def merged(one_by_one: Iterator[Output], sizes: random.Random) -> Iterator[Output]:
    """Chunks of several tokens, as a client gets them that reads slowly."""
    waiting: list[Output] = []
    for output in one_by_one:
        waiting.append(output)
        if output.finish_reason or sizes.random() < 0.6:
            ids = [each for one in waiting for each in one.ids]
            text = "".join(one.text for one in waiting)
            yield Output(ids, text, output.finish_reason, output.stop_reason)
            waiting = []
