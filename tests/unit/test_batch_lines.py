"""A batch's input: splitting it into lines and checking the lines."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.batches.input.lines import BOM, BadLine, LineReader, RawLine, checked_line, job_id_of, request_id_of
from producer.batches.input.validation import MOST_PROBLEMS, Duplicates, Validation

ENDPOINT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": {"model": "m", "messages": []}}


def cut(*pieces: bytes, limit: int = 1000, number: int = 1, start: int = 0) -> list[RawLine]:
    reader = LineReader(limit, number=number, start=start)
    found: list[RawLine] = []
    for piece in pieces:
        found += reader.feed(piece)
    return [*found, *reader.end()]


def texts(*pieces: bytes, **options: int) -> list[tuple[int, bytes | None]]:
    return [(line.number, line.data) for line in cut(*pieces, **options)]


def test_lines_are_numbered_and_blank_ones_count() -> None:
    assert texts(b"a\n\n  \nb\r\n\tc \n") == [(1, b"a"), (4, b"b"), (5, b"c")]
    assert texts(b"") == texts(b"\n \r\n") == []


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \n", b"\t\v\f\r\n"])
def test_blank_lines_are_skipped_at_once(blank: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_one, seen = LineReader._end_line, 0

    def counted(self: LineReader, rest: bytes) -> Iterator[RawLine]:
        nonlocal seen
        seen += 1
        return cut_one(self, rest)

    monkeypatch.setattr(LineReader, "_end_line", counted)
    pieces = [blank * 16_384] * 16
    (line,) = cut(*pieces, b"a\n", *pieces)
    count = 16 * 16_384
    assert (line.number, line.start, line.data) == (count + 1, count * len(blank), b"a")
    assert seen < 100


def test_the_last_line_needs_no_newline() -> None:
    assert texts(b"a\nb") == [(1, b"a"), (2, b"b")]


def test_a_byte_order_mark_is_ignored_at_the_start_only() -> None:
    assert texts(BOM + b"a\n" + BOM + b"b") == [(1, b"a"), (2, BOM + b"b")]
    assert texts(BOM[:1], BOM[1:] + b"a") == [(1, b"a")]
    assert texts(BOM) == []


def test_a_line_that_is_too_long_is_not_buffered() -> None:
    reader = LineReader(10)
    for _ in range(100):
        assert list(reader.feed(b"xxxxx")) == []
        assert sum(map(len, reader._buffered)) <= 10
    assert [line.data for line in reader.feed(b"\nok\n")] == [None, b"ok"]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_the_sizes_of_chunks_do_not_change_the_lines(data: bytes, cuts: list[int]) -> None:
    data = data.replace(b"\x00", b"\n")
    edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert cut(*pieces) == cut(data)


@given(st.lists(st.sampled_from([b"a", b"bb", b"", b" ", b"ccc\r"]), max_size=8))
def test_a_line_can_be_read_again_by_its_byte_range(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    for line in cut(data):
        assert cut(data[line.start : line.end], number=line.number, start=line.start) == [line]
        rest = cut(data[line.end :], number=line.number + 1, start=line.end)
        assert rest == [other for other in cut(data) if other.number > line.number]


def changed(**fields: object) -> bytes:
    return orjson.dumps({name: value for name, value in {**GOOD, **fields}.items() if value is not None})


BAD: dict[str, tuple[bytes | None, str, str | None]] = {
    "too long": (None, "line_too_long", None),
    "no JSON": (b"{nope", "invalid_json_line", None),
    "not UTF-8": (b'{"custom_id": "\xff"}', "invalid_json_line", None),
    "nested too deep": (b"[" * 200 + b"]" * 200, "invalid_json_line", None),
    "no object": (b"[1]", "invalid_json_line", None),
    "no custom_id": (changed(custom_id=None), "missing_required_parameter", "custom_id"),
    "a custom_id that is a number": (changed(custom_id=7), "invalid_value", "custom_id"),
    "an empty custom_id": (changed(custom_id=""), "invalid_value", "custom_id"),
    "a long custom_id": (changed(custom_id="x" * 513), "invalid_value", "custom_id"),
    "no method": (changed(method=None), "missing_required_parameter", "method"),
    "another method": (changed(method="GET"), "invalid_method", "method"),
    "no url": (changed(url=None), "missing_required_parameter", "url"),
    "another url": (changed(url="/v1/embeddings"), "invalid_url", "url"),
    "no body": (changed(body=None), "missing_required_parameter", "body"),
    "a body that is a text": (changed(body="x"), "invalid_value", "body"),
    "no model": (changed(body={"messages": []}), "missing_required_parameter", "body.model"),
    "a stream": (changed(body={"model": "m", "stream": True}), "invalid_value", "body.stream"),
    "a stream's options": (changed(body={"model": "m", "stream_options": {}}), "invalid_value", "body.stream_options"),
    "a webhook": (changed(body={"model": "m", "webhook_url": "https://a.b"}), "invalid_value", "body.webhook_url"),
    "a tier": (changed(body={"model": "m", "service_tier": "priority"}), "invalid_value", "body.service_tier"),
    "no tier": (changed(body={"model": "m", "service_tier": {}}), "invalid_value", "body.service_tier"),
    "a webhook beside the body": (changed(webhook_url="https://example.com"), "invalid_value", "webhook_url"),
    "metadata beside the body": (changed(metadata={}), "invalid_value", "metadata"),
    "a model beside the body": (changed(model="m"), "invalid_value", "model"),
    "headers": (changed(headers={"Idempotency-Key": "x"}), "invalid_value", "headers"),
    "a window": (changed(completion_window="24h"), "invalid_value", "completion_window"),
    "a million lists": (b"[" + b"[]," * 1_000_000 + b"1]", "invalid_json_line", None),
}


@pytest.mark.parametrize("case", BAD)
def test_the_error_of_an_invalid_line_names_its_field(case: str) -> None:
    data, code, param = BAD[case]
    with pytest.raises(BadLine) as bad:
        checked_line(data, ENDPOINT)
    assert (bad.value.problem.code, bad.value.problem.param) == (code, param)


def test_a_valid_line_is_accepted() -> None:
    body = {**GOOD["body"], "service_tier": "flex", "background": True, "webhook_url": None, "stream": False}
    assert checked_line(orjson.dumps({**GOOD, "body": body, "webhook_url": None}), ENDPOINT).body == body
    line = checked_line(orjson.dumps({**GOOD, "more": 1}), ENDPOINT)
    assert (line.custom_id, line.model, line.body) == ("a", "m", GOOD["body"])


def validated(*lines: bytes, limit: int = 100) -> Validation:
    validation = Validation(ENDPOINT, limit)
    for number, data in enumerate(lines, 1):
        validation.add(RawLine(number, 0, 0, data=data))
    validation.end()
    return validation


def test_add_returns_the_model_of_the_first_line_that_names_it() -> None:
    validation = Validation(ENDPOINT, 10)
    models = [
        validation.add(RawLine(n, 0, 0, data=changed(custom_id=str(n), body={"model": m})))
        for n, m in enumerate("abab")
    ]
    assert models == ["a", "b", None, None]
    assert validation.models == {"a": 0, "b": 1}


def test_validation_stops_at_the_limits_of_lines_and_problems() -> None:
    many = validated(*(changed(custom_id=str(number)) for number in range(4)), limit=3)
    assert many.full
    assert [problem.code for problem in many.problems] == ["too_many_tasks"]
    assert validated(*[b"x"] * MOST_PROBLEMS).full
    assert [problem.code for problem in validated().problems] == ["empty_batch"]


def test_a_duplicate_custom_id_is_reported_at_its_second_line() -> None:
    lines = [changed(custom_id=name) for name in ("a", "b", "a", "c", "b")]
    validation = validated(*lines)
    duplicates = Duplicates(ENDPOINT, validation.doubtful)
    for number, data in enumerate(lines, 1):
        duplicates.add(RawLine(number, 0, 0, data=data))
    assert [(problem.line, problem.code) for problem in duplicates.problems] == [
        (3, "duplicate_custom_id"),
        (5, "duplicate_custom_id"),
    ]


def test_ids_are_unique_and_deterministic() -> None:
    jobs = [job_id_of(batch, 1_700_000_000.5, line) for batch in ("batch_1", "batch_2") for line in (1, 2, 300)]
    assert len(set(jobs)) == 6
    assert jobs == [job_id_of(batch, 1_700_000_000.5, line) for batch in ("batch_1", "batch_2") for line in (1, 2, 300)]
    assert jobs[:3] == sorted(jobs[:3])
    assert all(len(job) == len("chatcmpl-") + 32 for job in jobs)
    assert request_id_of("batch_1", 1) != request_id_of("batch_1", 2)
