"""A multipart upload, taken apart while it comes in: the file's bytes go on as they are, nothing is gathered."""

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
"""Bytes of a field that is not the file."""

FIELDS_LIMIT = 32

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MEANT = re.compile(r"expir|ttl|retention|metadata|webhook|idempotency|purpose|file|anchor|seconds|store", re.IGNORECASE)
"""Fields by whose names clients mean something that an upload knows, or that it would have to know."""

PLAIN_TRANSFERS = frozenset({b"7bit", b"8bit", b"binary"})


@dataclass(slots=True)
class FormPart:
    """One part of the form, while it comes in."""

    name: str
    filename: str | None
    data: bytearray = field(default_factory=bytearray)

    @property
    def is_file(self) -> bool:
        return self.name == "file"


class Upload:
    """`chunks` gives the file's bytes; when it has ended, the other fields are known. Fields come in any order."""

    def __init__(self, content_type: str, body: AsyncIterable[bytes], limit: int) -> None:
        """`limit`: bytes that the file may have. Raises UnsupportedMediaType, InvalidRequest."""
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
        """Raises InvalidRequest for what is not a form with one file, RequestTooLarge."""
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

    # ── what the parser tells ──

    def _begin_part(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        name, value = bytes(self._header_name).lower(), bytes(self._header_value)
        if name == b"content-disposition":
            self._disposition = value
        elif name == b"content-transfer-encoding" and value.strip().lower() not in PLAIN_TRANSFERS:
            raise InvalidRequest("Parts of a form are sent as they are, in no transfer encoding.", code="invalid_form")
        self._header_name.clear()
        self._header_value.clear()

    def _begin_data(self) -> None:
        disposition = parse_disposition(self._disposition)
        self._part = FormPart(disposition.name, disposition.filename)
        if not self._part.name:
            raise InvalidRequest("A part of the form has no name.", code="invalid_form")
        if self._part.is_file:
            if self.filename is not None:
                raise InvalidRequest("There must be one 'file'.", param="file")
            self.filename = self._part.filename or "upload"
        elif self._part.name in self.fields:
            raise InvalidRequest(f"The field '{self._part.name[:100]}' is there twice.", param=self._part.name[:100])
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
    """What stands in the name of a header or in a field: UTF-8, as browsers and SDKs send it."""
    return raw.decode(errors="replace")


def purpose_of(upload: Upload) -> str:
    """Raises InvalidRequest."""
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
    """Seconds from its creation after which the file expires, where the client says so. Raises InvalidRequest, also for
    a field that would have to mean something and does not.
    """
    for name in upload.fields:
        if name != "purpose" and name != WHOLE and not FIELD.fullmatch(name) and MEANT.search(name):
            raise InvalidRequest(f"Unknown parameter: '{name[:100]}'.", param=name[:100], code="unknown_parameter")
    return form_expiry(upload.fields)
