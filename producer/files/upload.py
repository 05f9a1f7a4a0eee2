"""Parses a multipart upload as a stream: passes the file's bytes on as they arrive, without buffering the file."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from producer.files.disposition import parse_disposition
from producer.files.expiry import FIELD, WHOLE, form_expiry
from shared.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

FIELD_LIMIT = 64 * 1024
"""Most bytes of a field other than the file."""

FIELDS_LIMIT = 32

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
SIMILAR_NAMES = re.compile(
    r"expir|ttl|retention|metadata|webhook|idempotency|purpose|file|anchor|seconds|store", re.IGNORECASE
)
"""Names of unknown fields that are refused instead of ignored, because the client expects them to have an effect."""

PLAIN_TRANSFERS = frozenset({b"7bit", b"8bit", b"binary"})


@dataclass(slots=True)
class FormPart:
    """A part of the form that is being received."""

    name: str
    filename: str | None
    data: bytearray = field(default_factory=bytearray)

    @property
    def is_file(self) -> bool:
        return self.name == "file"


class Upload:
    """`chunks` yields the file's bytes. When it has ended, `fields` is complete. Fields may come in any order."""

    def __init__(self, content_type: str, body: AsyncIterable[bytes], limit: int) -> None:
        """`limit`: most bytes of the file. Raises UnsupportedMediaType, InvalidRequest."""
        self._body = body
        self._limit = limit
        self._parser = MultipartParser(
            boundary_of(content_type),
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_data,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition = b""
        self._part: FormPart | None = None
        self._ready: list[bytes] = []
        self._size = 0
        self._ended = False
        self.filename: str | None = None
        self.fields: dict[str, str] = {}

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yields the file's bytes. Raises RequestTooLarge, and InvalidRequest for a body that is not a form with a
        file.
        """
        async for data in self._body:
            self._feed(data)
            ready, self._ready = self._ready, []
            for chunk in ready:
                yield chunk
        if not self._ended:
            raise InvalidRequest("The form ends in the middle of a part.", code="invalid_form")
        if self.filename is None:
            raise InvalidRequest("Missing required parameter: 'file'.", param="file")

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"The body is not a valid form: {error}.", code="invalid_form") from None

    # ── the parser's callbacks ──

    def _begin_part(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        name, value = bytes(self._header_name).lower(), bytes(self._header_value)
        if name == b"content-disposition":
            self._disposition = value
        elif name == b"content-transfer-encoding" and value.strip().lower() not in PLAIN_TRANSFERS:
            message = "Content-Transfer-Encoding is not supported: send the form's parts as they are."
            raise InvalidRequest(message, code="invalid_form")
        self._header_name.clear()
        self._header_value.clear()

    def _begin_data(self) -> None:
        disposition = parse_disposition(self._disposition)
        self._part = FormPart(disposition.name, disposition.filename)
        if not self._part.name:
            raise InvalidRequest("A part of the form has no name.", code="invalid_form")
        if self._part.is_file:
            if self.filename is not None:
                raise InvalidRequest("The form must have exactly one 'file'.", param="file")
            self.filename = self._part.filename or "upload"
        elif self._part.name in self.fields:
            name = self._part.name[:100]
            raise InvalidRequest(f"The form has the field '{name}' twice.", param=name)
        elif len(self.fields) >= FIELDS_LIMIT:
            raise InvalidRequest("The form has too many fields.", code="invalid_form")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is not None and part.is_file:
            self._size += end - start
            if self._size > self._limit:
                raise RequestTooLarge(f"The file is larger than {self._limit:,} bytes.", param="file")
            self._ready.append(data[start:end])
        elif part is not None:
            part.data += data[start:end]
            if len(part.data) > FIELD_LIMIT:
                raise InvalidRequest(f"The field '{part.name[:100]}' is too long.", param=part.name[:100])

    def _end_part(self) -> None:
        part, self._part = self._part, None
        if part is not None and not part.is_file:
            self.fields[part.name] = text(bytes(part.data))

    def _end(self) -> None:
        self._ended = True


def boundary_of(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMediaType("Upload files as multipart/form-data.")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise InvalidRequest("The form has no boundary.", code="invalid_form")
    return boundary


def text(raw: bytes) -> str:
    """Decodes a field's value as UTF-8, which browsers and SDKs send."""
    return raw.decode(errors="replace")


def purpose_of(upload: Upload) -> str:
    """Returns the form's purpose. Raises InvalidRequest."""
    purpose = upload.fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("Missing required parameter: 'purpose'.", param="purpose")
    if purpose not in PURPOSES:
        expected = ", ".join(f"'{each}'" for each in PURPOSES)
        raise InvalidRequest(f"Invalid value for 'purpose': expected one of {expected}.", param="purpose")
    if purpose == "batch" and not (upload.filename or "").lower().endswith(".jsonl"):
        raise InvalidRequest("A file with the purpose 'batch' must have a name that ends in .jsonl.", param="file")
    return purpose


def expiry_of(upload: Upload) -> int | None:
    """Returns the seconds from the file's creation to its expiry, None if the client sets none. Raises InvalidRequest,
    also for an unknown field with one of SIMILAR_NAMES.
    """
    for name in upload.fields:
        if name != "purpose" and name != WHOLE and not FIELD.fullmatch(name) and SIMILAR_NAMES.search(name):
            raise InvalidRequest(f"Unknown parameter: '{name[:100]}'.", param=name[:100], code="unknown_parameter")
    return form_expiry(upload.fields)
