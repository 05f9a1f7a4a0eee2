"""Checks that a file is a complete GGUF model: its magic, version, header, and its size for all of its tensors."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import EngineError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT = b"general.alignment"

# The types of metadata values, by their numbers in the format.
UINT32, STRING, ARRAY = 4, 8, 9
FIXED_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

# Elements and bytes of a block, by the numbers of ggml's types.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """`size` is in bytes, 0 for an unknown type; `offset` counts from the start of the first tensor."""

    offset: int
    size: int


class Damaged(ValueError):
    """The header cannot be read."""


def check_gguf(path: Path) -> None:
    """Raises EngineError if `path` is not a complete GGUF file."""
    if not path.is_file():
        raise EngineError(f"There is no model file {path}.")
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if problem := _problem_with_head(head):
                raise EngineError(f"{path} {problem}.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                needed, size = bytes_needed(data), len(data)
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}.") from error
    except Damaged as error:
        raise EngineError(f"{path} is not a complete GGUF file: {error}.") from error
    if size < needed:
        raise EngineError(f"{path} is not a complete GGUF file: it has {size:,} of {needed:,} bytes.")


def bytes_needed(data: bytes | mmap.mmap) -> int:
    """Returns the size in bytes that a file with this header must have. Raises Damaged for an unreadable header."""
    header = _Header(data)
    _, _, tensors, values = header.unpack("<4sIQQ")
    alignment = DEFAULT_ALIGNMENT
    for _ in range(values):
        key, kind = header.string(), header.number("<I")
        if key == ALIGNMENT and kind == UINT32:
            alignment = header.number("<I")
        else:
            header.skip_value(kind)
    if not tensors:
        raise Damaged("it has no tensors")
    if alignment < 1 or alignment % 8:
        raise Damaged(f"its alignment is {alignment}")
    ends = [tensor.offset + tensor.size for tensor in _tensors(header, tensors)]
    return math.ceil(header.at / alignment) * alignment + max(ends)


def _problem_with_head(head: bytes) -> str | None:
    if not head.startswith(MAGIC):
        return "is not a GGUF file: it does not begin with the letters GGUF"
    if len(head) < 8:
        return "is not a complete GGUF file: it ends within its header"
    version = int.from_bytes(head[4:], "little")
    if version not in VERSIONS:
        return f"is a GGUF file of version {version}; llama.cpp reads versions 2 and 3"
    return None


def _tensors(header: _Header, count: int) -> Iterator[Tensor]:
    for _ in range(count):
        header.string()
        dimensions = [header.number("<Q") for _ in range(header.number("<I"))]
        kind, offset = header.unpack("<IQ")
        elements, size = BLOCKS.get(kind, (1, 0))
        yield Tensor(offset, math.prod(dimensions) // elements * size)


class _Header:
    """Reads a header from its start. Raises Damaged at the end of the file."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def number(self, form: str) -> int:
        return self.unpack(form)[0]

    def unpack(self, form: str) -> tuple[int, ...]:
        start = self.at
        self._skip(struct.calcsize(form))
        return struct.unpack_from(form, self._data, start)

    def string(self) -> bytes:
        size = self.number("<Q")
        self._skip(size)
        return self._data[self.at - size : self.at]

    def skip_value(self, kind: int) -> None:
        if kind == STRING:
            self._skip(self.number("<Q"))
        elif kind == ARRAY:
            self._skip_array(*self.unpack("<IQ"))
        else:
            self._skip(_size_of(kind))

    def _skip_array(self, kind: int, count: int) -> None:
        if kind in (STRING, ARRAY):
            for _ in range(count):
                self.skip_value(kind)
        else:
            self._skip(_size_of(kind) * count)

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self._data):
            raise Damaged("it ends within its header")


def _size_of(kind: int) -> int:
    if kind not in FIXED_SIZES:
        raise Damaged(f"its header has a value of the unknown type {kind}")
    return FIXED_SIZES[kind]
