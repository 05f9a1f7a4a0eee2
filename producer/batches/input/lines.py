"""Splits a batch's input into lines, checks the lines, and encodes their answers. No I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import orjson

from producer.admission.estimate import BYTES_PER_TOKEN, LONGEST_PROMPT, USUAL_ANSWER
from producer.batches.document import Problem
from producer.responses.request import ResponsesRequest
from shared.errors import InvalidRequest
from shared.schema import ChatCompletionRequest, CompletionRequest, EmbeddingsRequest, RerankRequest, parse_json

BOM = b"\xef\xbb\xbf"
CUSTOM_ID_LIMIT = 512
BLANK_LINES = re.compile(rb"[ \t\r\v\f\n]*\n")


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line that is not blank. `number` counts from 1 and includes blank lines. `start` and `end` are byte offsets;
    the newline is before `end`. `data` is None for a line above the size limit.
    """

    number: int
    start: int
    end: int
    data: bytes | None


class LineReader:
    """Splits a file into lines while it is read. Buffers at most one line besides the data of the last `feed`."""

    def __init__(self, limit: int, *, number: int = 1, start: int = 0) -> None:
        """`limit`: most bytes of a line. The first line is `number`, which begins at the byte `start`."""
        self._limit = limit
        self._number = number
        self._start = start
        self._buffered: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[RawLine]:
        """Yields the lines that end in `data`. The caller must exhaust the iterator before the next call."""
        position = self._skip_blank(data, 0)
        while (end := data.find(b"\n", position) + 1) > 0:
            yield from self._end_line(data[position:end])
            position = self._skip_blank(data, end)
        self._buffer(data[position:])

    def end(self) -> Iterator[RawLine]:
        """Yields the last line if no newline follows it."""
        yield from self._end_line(b"")

    def fork(self) -> LineReader:
        """Returns a second reader at the same position."""
        twin = copy(self)
        twin._buffered = [*self._buffered]
        return twin

    def _skip_blank(self, data: bytes, position: int) -> int:
        """Returns where the blank lines that begin at `position` end. One search skips all of them, even millions."""
        if self._size or (blank := BLANK_LINES.match(data, position)) is None:
            return position
        self._number += data.count(b"\n", position, blank.end())
        self._start += blank.end() - position
        return blank.end()

    def _buffer(self, rest: bytes) -> None:
        self._size += len(rest)
        if self._size > self._limit:
            self._buffered = []
        elif rest:
            self._buffered.append(rest)

    def _end_line(self, rest: bytes) -> Iterator[RawLine]:
        self._buffer(rest)
        size, buffered = self._size, self._buffered
        number, start = self._number, self._start
        self._number, self._start = number + 1, start + size
        self._buffered, self._size = [], 0
        if size > self._limit:
            yield RawLine(number, start, start + size, data=None)
            return
        data = b"".join(buffered)
        if start == 0:
            data = data.removeprefix(BOM)
        if data := data.strip():
            yield RawLine(number, start, start + size, data=data)


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A parsed line. `extra`: its fields that are not part of the format."""

    custom_id: str
    model: str
    body: dict[str, Any]
    extra: dict[str, Any]


LONGEST_ANSWER = 1_000_000
"""Tokens that are believed of one line's answer: longer ones are refused when the line runs."""


def line_tokens(line: BatchLine, size: int) -> int:
    """Estimates the tokens of a line's prompt and answer, like `estimated_tokens` but before its request is checked.
    `size`: its bytes.
    """
    limits = (line.body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    answer = next((limit for limit in limits if is_count(limit)), USUAL_ANSWER)
    choices = line.body.get("n")
    answers = answer * (choices if is_count(choices) else 1)
    return min(size // BYTES_PER_TOKEN, LONGEST_PROMPT) + min(answers, LONGEST_ANSWER)


def is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value > 0


class BadLine(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(code=code, message=message, param=param)


def parse_line(data: bytes | None, endpoint: str) -> BatchLine:
    """Parses a line; does not check the request in its `body`. Raises BadLine."""
    if data is None:
        raise BadLine("line_too_long", "This line is larger than the limit for request bodies.")
    line = as_object(data)
    custom_id = required(line, "custom_id", str)
    if not 0 < len(custom_id) <= CUSTOM_ID_LIMIT:
        raise BadLine("invalid_value", f"A custom_id must have 1 to {CUSTOM_ID_LIMIT} characters.", "custom_id")
    if required(line, "method", str) != "POST":
        raise BadLine("invalid_method", "The method of a request must be 'POST'.", "method")
    if required(line, "url", str) != endpoint:
        message = "The URL provided for this request does not match the batch endpoint."
        raise BadLine("invalid_url", f"{message[:-1]}, '{endpoint}'.", "url")
    body = required(line, "body", dict)
    model = required(body, "model", str, path="body.")
    if body.get("stream"):
        raise BadLine("invalid_value", "A request in a batch cannot be streamed.", "body.stream")
    return BatchLine(custom_id, model, body, extra={name: line[name] for name in line.keys() - LINE_FIELDS})


def checked_line(data: bytes | None, endpoint: str) -> BatchLine:
    """Parses a line for validation: also refuses fields that would be ignored. Raises BadLine."""
    line = parse_line(data, endpoint)
    refuse_ignored_fields(line.extra, line.body, endpoint)
    return line


LINE_FIELDS = frozenset({"custom_id", "method", "url", "body"})
BODY_FIELDS = frozenset(
    name
    for model in (ChatCompletionRequest, ResponsesRequest, CompletionRequest, EmbeddingsRequest, RerankRequest)
    for name in model.model_fields
)
FIELDS_OF_REQUESTS = BODY_FIELDS | {
    *("completion_window", "endpoint", "input_file_id", "output_expires_after"),
    *("headers", "idempotency_key", "priority", "timeout"),
}
"""Fields of requests, of batches and of headers. Beside a line's body they would be ignored."""

ACCEPTED_TIERS = (None, "auto", "default", "flex")
"""Values of `service_tier` that a line may have. Every line runs as flex."""


def refuse_ignored_fields(extra: Mapping[str, Any], body: Mapping[str, Any], endpoint: str) -> None:
    """Raises BadLine for a known field that a batch line would ignore."""
    for name, value in extra.items():
        if name in FIELDS_OF_REQUESTS and value is not None:
            in_body = name in BODY_FIELDS
            reason = "it belongs in the body" if in_body else "a line cannot have this field"
            raise BadLine("invalid_value", f"Invalid value for '{name}': {reason}.", name)
    if body.get("stream_options") is not None:
        raise BadLine("invalid_value", "A request in a batch cannot be streamed.", "body.stream_options")
    if body.get("webhook_url") is not None:
        message = "Webhooks are sent per batch, not per line: set 'webhook_url' of the batch."
        raise BadLine("invalid_value", message, "body.webhook_url")
    if endpoint == "/v1/responses" and body.get("background"):
        raise BadLine("invalid_value", "All requests of a batch run in the background.", "body.background")
    if body.get("service_tier") not in ACCEPTED_TIERS:
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
    """Returns the id of a line's job: always the same, so that a line that is started twice has one job. Ids sort by
    line.
    """
    batch = hashlib.blake2b(batch_id.encode(), digest_size=6).hexdigest()
    return f"chatcmpl-{int(created_at * 1000):012x}{number:08x}{batch}"


def request_id_of(batch_id: str, number: int) -> str:
    return f"batch_req_{hashlib.blake2b(f'{batch_id}:{number}'.encode(), digest_size=12).hexdigest()}"


def answer_line(request_id: str, custom_id: str, job_id: str, status: int, body: bytes) -> bytes:
    """Encodes a line of the output file, or of the error file if `body` is an error."""
    response = {"status_code": status, "request_id": job_id, "body": orjson.Fragment(body)}
    line = {"id": request_id, "custom_id": custom_id, "response": response, "error": None}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


NOT_RUN: Mapping[str, str] = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "storage_quota_exceeded": "This request was not executed because its tenant has used up its storage for files.",
    "key_revoked": "This request was not executed because the API key that created the batch was revoked.",
}


def line_not_run(request_id: str, custom_id: str | None, code: str) -> bytes:
    """Encodes a line of the error file for a request that was not run, or not to its end."""
    error = {"code": code, "message": NOT_RUN[code]}
    line = {"id": request_id, "custom_id": custom_id, "response": None, "error": error}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
