"""Parses the `Content-Disposition` of a form's part. No I/O.

RFC 7578 forbids `filename*` in forms, but .NET and older versions of urllib3 send it. Then only `filename*` has the
right name: `filename` is missing or an encoded word (RFC 2047).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import unquote_to_bytes

from shared.errors import InvalidRequest

PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
CONTINUED = re.compile(r"(?P<name>[^*]+)\*(?P<index>\d{1,3})(?P<encoded>\*?)")
ENCODED_WORDS = re.compile(r"\s*(=\?[^?\s]+\?[bq]\?[^?]*\?=\s*)+", re.IGNORECASE)
FULL_PATH = re.compile(r"[A-Za-z]:\\|\\\\")
CHARSETS = frozenset({"utf-8", "us-ascii", "iso-8859-1"})


@dataclass(frozen=True, slots=True)
class Disposition:
    name: str
    filename: str | None


def parse_disposition(header: bytes) -> Disposition:
    """Parses the header. Raises InvalidRequest for a name that is invalid or in an unknown encoding."""
    given = {key.decode("latin-1").lower(): value for key, value in PARAMETER.findall(header)}
    name, filename = value_of("name", given), value_of("filename", given)
    if filename is not None and FULL_PATH.match(filename):
        filename = filename.rpartition("\\")[2]
    if any(character < " " or character == "\x7f" for character in f"{name}{filename or ''}"):
        raise InvalidRequest("The name of a part of the form contains control characters.", code="invalid_form")
    return Disposition(name or "", filename)


def value_of(name: str, given: Mapping[str, bytes]) -> str | None:
    if (extended := given.get(f"{name}*")) is not None:
        return decoded(unquoted(extended))
    if (pieces := continued(name, given)) is not None:
        return pieces
    plain = given.get(name)
    return None if plain is None else without_encoded_words(unquoted(plain).decode(errors="replace"))


def unquoted(value: bytes) -> bytes:
    value = value.strip()
    if len(value) >= 2 and value[:1] == value[-1:] == b'"':
        return value[1:-1].replace(b"\\\\", b"\\").replace(b'\\"', b'"')
    return value


def decoded(value: bytes) -> str:
    """Decodes RFC 5987's `charset'language'percent-encoded`. Raises InvalidRequest."""
    charset, mark, rest = value.partition(b"'")
    _, second, text = rest.partition(b"'")
    if not mark or not second:
        raise unreadable()
    return text_of(unquote_to_bytes(text), charset)


def continued(name: str, given: Mapping[str, bytes]) -> str | None:
    """Joins RFC 2231's `filename*0*=…; filename*1=…`. Returns None without such a parameter."""
    pieces = [(found, value) for key, value in given.items() if (found := CONTINUED.fullmatch(key)) is not None]
    pieces = sorted((each for each in pieces if each[0]["name"] == name), key=lambda each: int(each[0]["index"]))
    if not pieces:
        return None
    charset, raw = b"utf-8", b""
    for position, (found, value) in enumerate(pieces):
        value = unquoted(value)
        if found["encoded"] and position == 0:
            charset, _, value = value.partition(b"'")
            value = value.partition(b"'")[2]
        raw += unquote_to_bytes(value) if found["encoded"] else value
    return text_of(raw, charset)


def text_of(raw: bytes, charset: bytes) -> str:
    known = charset.decode("latin-1").lower() or "utf-8"
    if known not in CHARSETS:
        raise unreadable()
    try:
        return raw.decode(known)
    except UnicodeDecodeError:
        raise unreadable() from None


def without_encoded_words(text: str) -> str:
    if not ENCODED_WORDS.fullmatch(text):
        return text
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, ValueError):
        return text


def unreadable() -> InvalidRequest:
    return InvalidRequest(
        "The file's name cannot be read: expected filename*=UTF-8''… with percent-encoded UTF-8.", param="file"
    )
