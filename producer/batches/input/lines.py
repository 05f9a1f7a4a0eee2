"""A batch's input, line by line: cut, checked, and answered. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

import orjson

from producer.batches.document import Problem
from shared.errors import InvalidRequest
from shared.schema import ChatCompletionRequest, parse_json

BOM = b"\xef\xbb\xbf"
CUSTOM_ID_LIMIT = 512
BLANK_LINES = re.compile(rb"[ \t\r\v\f\n]*\n")


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line that is not blank. `number` counts from 1, and counts blank lines too; it is the bytes from `start` up to
    `end`, its end of line among them. `data` is None where it is too long.
    """

    number: int
    start: int
    end: int
    data: bytes | None


class LineReader:
    """Cuts a file into lines while it is read. Pauses no more of it than one line and what it was fed last."""

    def __init__(self, limit: int, *, number: int = 1, start: int = 0) -> None:
        """`limit`: bytes that a line may have. The file is read from the line `number`, which begins at `start`."""
        self._limit = limit
        self._number = number
        self._start = start
        self._held: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[RawLine]:
        """The lines that end in what was fed so far. Each must be taken before more is fed."""
        position = self._pass_over_blank(data, 0)
        while (end := data.find(b"\n", position) + 1) > 0:
            yield from self._cut(data[position:end])
            position = self._pass_over_blank(data, end)
        self._hold(data[position:])

    def end(self) -> Iterator[RawLine]:
        """The last line, where nothing ends it."""
        yield from self._cut(b"")

    def fork(self) -> LineReader:
        """Another one that is where this one is."""
        twin = copy(self)
        twin._held = [*self._held]
        return twin

    def _pass_over_blank(self, data: bytes, position: int) -> int:
        """Where the blank lines end that begin at `position`: millions of them cost what a few do."""
        if self._size or (blank := BLANK_LINES.match(data, position)) is None:
            return position
        self._number += data.count(b"\n", position, blank.end())
        self._start += blank.end() - position
        return blank.end()

    def _hold(self, rest: bytes) -> None:
        self._size += len(rest)
        if self._size > self._limit:
            self._held = []
        elif rest:
            self._held.append(rest)

    def _cut(self, rest: bytes) -> Iterator[RawLine]:
        self._hold(rest)
        size, held = self._size, self._held
        number, start = self._number, self._start
        self._number, self._start = number + 1, start + size
        self._held, self._size = [], 0
        if size > self._limit:
            yield RawLine(number, start, start + size, data=None)
            return
        data = b"".join(held)
        if start == 0:
            data = data.removeprefix(BOM)
        if data := data.strip():
            yield RawLine(number, start, start + size, data=data)


@dataclass(frozen=True, slots=True)
class BatchLine:
    """What a line asks for. `beside`: what stands beside the fields that a line has."""

    custom_id: str
    model: str
    body: dict[str, Any]
    beside: dict[str, Any]


class BadLine(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(code=code, message=message, param=param)


def parse_line(data: bytes | None, endpoint: str) -> BatchLine:
    """Whether the request in it is a good one is another question. Raises BadLine."""
    if data is None:
        raise BadLine("line_too_long", "This line is longer than a request may be.")
    line = as_object(data)
    custom_id = required(line, "custom_id", str)
    if not 0 < len(custom_id) <= CUSTOM_ID_LIMIT:
        raise BadLine("invalid_value", f"A custom_id has 1 to {CUSTOM_ID_LIMIT} characters.", "custom_id")
    if required(line, "method", str) != "POST":
        raise BadLine("invalid_method", "The method of a request must be 'POST'.", "method")
    if required(line, "url", str) != endpoint:
        message = "The URL provided for this request does not match the batch endpoint."
        raise BadLine("invalid_url", f"{message[:-1]}, '{endpoint}'.", "url")
    body = required(line, "body", dict)
    model = required(body, "model", str, path="body.")
    if body.get("stream"):
        raise BadLine("invalid_value", "A request in a batch cannot be streamed.", "body.stream")
    return BatchLine(custom_id, model, body, beside={name: line[name] for name in line.keys() - LINE_FIELDS})


def checked_line(data: bytes | None, endpoint: str) -> BatchLine:
    """As `parse_line`, before a batch begins: also with no field that would be ignored. Raises BadLine."""
    line = parse_line(data, endpoint)
    refuse_unheeded(line.beside, line.body)
    return line


LINE_FIELDS = frozenset({"custom_id", "method", "url", "body"})
FIELDS_OF_REQUESTS = frozenset(ChatCompletionRequest.model_fields) | {
    *("completion_window", "endpoint", "input_file_id", "output_expires_after"),
    *("headers", "idempotency_key", "priority", "timeout"),
}
"""What a line would be ignored with, though it means something elsewhere: in a request, in a batch, as a header."""

FLEX_ENOUGH = (None, "auto", "default", "flex")
"""Tiers that a line may ask for: it runs as flex."""


def refuse_unheeded(beside: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """Raises BadLine for a field that means something and would be ignored."""
    for name, value in beside.items():
        if name in FIELDS_OF_REQUESTS and value is not None:
            reason = "it belongs into the body" if name in ChatCompletionRequest.model_fields else "it is not for lines"
            raise BadLine("invalid_value", f"Invalid value for '{name}': {reason}.", name)
    if body.get("stream_options") is not None:
        raise BadLine("invalid_value", "A request in a batch cannot be streamed.", "body.stream_options")
    if body.get("webhook_url") is not None:
        message = "No webhook tells the end of a line: set 'webhook_url' of the batch."
        raise BadLine("invalid_value", message, "body.webhook_url")
    if body.get("service_tier") not in FLEX_ENOUGH:
        raise BadLine("invalid_value", "The requests of a batch run in the tier 'flex'.", "body.service_tier")


def as_object(data: bytes) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except InvalidRequest as error:
        reason = error.message.replace("The request body", "This line")
        raise BadLine("invalid_json_line", f"This line is not parseable as valid JSON: {reason}") from None
    if not isinstance(value, dict):
        raise BadLine("invalid_json_line", "This line is not a JSON object.")
    return cast(dict[str, Any], value)


def required(line: Mapping[str, Any], name: str, kind: type, path: str = "") -> Any:
    value = line.get(name)
    if value is None:
        raise BadLine("missing_required_parameter", f"Missing required parameter: '{path}{name}'.", path + name)
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a string"
        raise BadLine("invalid_value", f"Invalid value for '{path}{name}': expected {expected}.", path + name)
    return value


# ── answers ──


def job_id_of(batch_id: str, created_at: float, number: int) -> str:
    """The job of a line: always the same, so that a line which is fed twice is one job. Ids sort by line."""
    batch = hashlib.blake2b(batch_id.encode(), digest_size=6).hexdigest()
    return f"chatcmpl-{int(created_at * 1000):012x}{number:08x}{batch}"


def request_id_of(batch_id: str, number: int) -> str:
    return f"batch_req_{hashlib.blake2b(f'{batch_id}:{number}'.encode(), digest_size=12).hexdigest()}"


def answer_line(request_id: str, custom_id: str, job_id: str, status: int, body: bytes) -> bytes:
    """What stands in the output file, or with an error for a `body` in the error file."""
    response = {"status_code": status, "request_id": job_id, "body": orjson.Fragment(body)}
    line = {"id": request_id, "custom_id": custom_id, "response": response, "error": None}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


NOT_RUN: Mapping[str, str] = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "storage_quota_exceeded": "This request was not executed because its tenant's files have all the bytes they may.",
    "key_revoked": "This request was not executed because the API key that asked for the batch was revoked.",
}


def line_not_run(request_id: str, custom_id: str | None, code: str) -> bytes:
    """What stands in the error file for a line that was not run, or not to its end."""
    error = {"code": code, "message": NOT_RUN[code]}
    line = {"id": request_id, "custom_id": custom_id, "response": None, "error": error}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
