"""An incomplete GGUF file is refused before llama.cpp reads it, and `ignite doctor` reports the reason."""

import random
import struct
from pathlib import Path

import pytest

from ignite.commands.doctor import check_llamacpp
from shared.errors import EngineError
from shared.settings import Settings
from worker.engines.demo_model import MODEL_PATH
from worker.engines.llamacpp.gguf import bytes_needed, check_gguf

WHOLE = MODEL_PATH.read_bytes()


def header(version: int = 3, tensors: int = 1, values: bytes = b"", count: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + values


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(*dimensions: int, kind: int = 0, offset: int = 0) -> bytes:
    return text("t") + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


def alignment(value: int) -> bytes:
    return text("general.alignment") + struct.pack("<II", 4, value)


def test_the_demo_model_is_whole() -> None:
    assert bytes_needed(WHOLE) == len(WHOLE)
    check_gguf(MODEL_PATH)


STRINGS = text("k") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
NUMBERS = text("k") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3)


@pytest.mark.parametrize(
    ("head", "aligned", "size"),
    [
        (header() + tensor(8), 32, 8 * 4),
        (header() + tensor(32, 4, kind=8), 32, 4 * 34),
        (header() + tensor(256, 2, kind=12, offset=96), 32, 96 + 2 * 144),
        (header(tensors=2) + tensor(8, offset=32) + tensor(8), 32, 32 + 8 * 4),
        (header() + tensor(7, kind=999, offset=32), 32, 32),
        (header(values=alignment(64), count=1) + tensor(1), 64, 4),
        (header(values=STRINGS, count=1) + tensor(1), 32, 4),
        (header(values=NUMBERS, count=1) + tensor(1), 32, 4),
    ],
    ids=["floats", "blocks", "offset", "order", "unknown-type", "alignment", "texts", "numbers"],
)
def test_its_tensors_need_room(head: bytes, aligned: int, size: int) -> None:
    assert bytes_needed(head) == len(head) + -len(head) % aligned + size


BAD: list[tuple[str, bytes, str]] = [
    ("empty", b"", "not a GGUF file"),
    ("text", b"This is a README.", "not a GGUF file"),
    ("magic-only", b"GGUF", "ends within its header"),
    ("head-only", WHOLE[:8], "ends within its header"),
    ("first-version", b"GGUF\1\0\0\0" + WHOLE[8:], "version 1"),
    ("other-byte-order", b"GGUF\0\0\0\3" + WHOLE[8:], "version"),
    ("huge-counts", WHOLE[:8] + b"\xff" * 16 + WHOLE[24:], "not a complete GGUF file"),
    ("in-header", WHOLE[:5000], "ends within its header"),
    ("in-tensors", WHOLE[:200_000], f"200,000 of {len(WHOLE):,} bytes"),
    ("last-byte", WHOLE[:-1], f"{len(WHOLE) - 1:,} of {len(WHOLE):,} bytes"),
    ("garbage", b"GGUF\3\0\0\0" + random.Random(7).randbytes(100_000), "not a complete GGUF file"),
    ("no-tensors", header(tensors=0), "no tensors"),
    ("value-type", header(values=text("k") + struct.pack("<I", 77), count=1), "unknown type 77"),
    ("no-alignment", header(values=alignment(0), count=1) + tensor(1), "alignment is 0"),
]


@pytest.mark.parametrize(("data", "says"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_a_bad_file_is_one_sentence(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(EngineError, match=says) as refused:
        check_gguf(path)
    assert str(path) in refused.value.message
    finding = check_llamacpp(Settings(model=str(path)))
    assert (finding.ok, finding.detail) == (False, refused.value.message)


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(EngineError, match="no model file"):
            check_gguf(path)


def test_doctor_is_content_with_a_whole_model() -> None:
    assert check_llamacpp(Settings(model=str(MODEL_PATH))).ok
    assert check_llamacpp(Settings()).ok
