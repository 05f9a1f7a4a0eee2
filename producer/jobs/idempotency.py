"""Parses idempotency keys and computes the fingerprints of requests. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from shared.errors import InvalidRequest
from shared.job import IdempotencyKey

HEADER = "Idempotency-Key"
NAME = re.compile(r"[\x20-\x7e]{1,255}")


def idempotency_key(name: str | None, value: Any, call: str) -> IdempotencyKey | None:
    """Returns the key, None without a name. `value`: the parsed body. The fingerprint ignores the order of fields and
    white space; it includes `call`, the kind of call (a stream, a batch). Raises InvalidRequest.
    """
    if name is None:
        return None
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"Invalid value for '{HEADER}': expected 1 to 255 printable ASCII characters.", param=HEADER
        )
    canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return IdempotencyKey(digest(name.encode()), digest(call.encode(), canonical))


@dataclass(frozen=True, slots=True)
class SdkTry:
    """One try of a request by an SDK. `again`: it is a retry."""

    digest: str
    again: bool


def sdk_try(headers: Mapping[str, str], body: bytes, call: str) -> SdkTry | None:
    """Returns the try, None where the SDK sends no retry count. A retry has the same bytes as the first try."""
    tries = headers.get("x-stainless-retry-count")
    return None if tries is None else SdkTry(digest(call.encode(), body), again=tries != "0")


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:32]
