"""The record of an answer's tokens, with which another attempt continues it: ids, and how much text had come with them.

It is the `progress` of the engine port: bytes that only grow, written beside the answer's frames. The ids of the prompt
come first, then one piece for each chunk. Numbers are varints: a token takes five to six bytes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from worker.engines.base import Chunk
from worker.engines.openai.normalizing.token_ids import PROMPT_IDS, TOKEN_IDS

MOST = 4 * 1024 * 1024
"""Bytes of a record. A longer one is not kept: its answer is continued by its text."""

PROMPT, PIECE = 1, 2


@dataclass(frozen=True, slots=True)
class Piece:
    """Ids that came in one chunk, and the characters of the answer that were sent up to its end."""

    ids: tuple[int, ...]
    sent: int

    @property
    def is_whole(self) -> bool:
        """Whether the ids so far end where a character ends: one id that made text has no other id behind that text."""
        return len(self.ids) == 1


@dataclass(slots=True)
class TokenRecord:
    prompt: list[int]
    pieces: list[Piece] = field(default_factory=list[Piece])

    @property
    def sent(self) -> int:
        return self.pieces[-1].sent if self.pieces else 0

    def encoded(self, pieces: int) -> bytes:
        """The record up to a number of pieces."""
        parts = [encode_prompt(self.prompt)]
        before = 0
        for piece in self.pieces[:pieces]:
            parts.append(encode_piece(piece.ids, piece.sent - before))
            before = piece.sent
        return b"".join(parts)


def encode_prompt(ids: Sequence[int]) -> bytes:
    return _varints((PROMPT, len(ids), *ids))


def encode_piece(ids: Sequence[int], characters: int) -> bytes:
    return _varints((PIECE, len(ids), characters, *ids))


def decode(data: bytes) -> TokenRecord | None:
    """Reads a record; None where there is none, or what is there is something else."""
    try:
        numbers = _numbers(data)
        if not numbers or numbers[0] != PROMPT:
            return None
        at = 2 + numbers[1]
        record = TokenRecord(numbers[2:at])
        if len(record.prompt) != numbers[1]:
            return None
        while at < len(numbers):
            kind, count, characters = numbers[at : at + 3]
            ids = tuple(numbers[at + 3 : at + 3 + count])
            if kind != PIECE or len(ids) != count:
                return None
            record.pieces.append(Piece(ids, record.sent + characters))
            at += 3 + count
    except (ValueError, IndexError):
        return None
    return record


def _varints(numbers: Iterable[int]) -> bytes:
    encoded = bytearray()
    for number in numbers:
        while number > 127:
            encoded.append(128 | number & 127)
            number >>= 7
        encoded.append(number)
    return bytes(encoded)


def _numbers(data: bytes) -> list[int]:
    """Raises ValueError where the last number is cut off."""
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 127) << shift
        if byte & 128:
            shift += 7
        else:
            numbers.append(number)
            number = shift = 0
    if shift:
        raise ValueError("the last number is cut off")
    return numbers


class Recorder:
    """Takes the ids out of a stream's chunks, and puts what they add to the record into `progress`.

    `begin`: the record of the attempt before, as far as this one builds on it.
    """

    def __init__(self, begin: bytes = b"") -> None:
        self._begin = begin
        self._size = 0

    def recorded(self, chunk: Chunk) -> Chunk:
        """Returns the chunk without ids. A chunk without text has its ids recorded with the next one's."""
        prompt, ids = chunk.pop(PROMPT_IDS, None), chunk.pop(TOKEN_IDS, None)
        added = self._begun(prompt) if not self._size else b""
        if not (self._size or added) or self._size > MOST:
            return chunk
        characters = characters_of(chunk)
        if ids or characters:
            added += encode_piece(ids or (), characters)
        self._size += len(added)
        return {**chunk, "progress": added} if added and self._size <= MOST else chunk

    def _begun(self, prompt: Sequence[int] | None) -> bytes:
        return self._begin or (encode_prompt(prompt) if prompt else b"")


def characters_of(chunk: Chunk) -> int:
    """Characters of content that a chunk brings."""
    return sum(len(part["delta"].get("content") or "") for part in chunk["choices"])
