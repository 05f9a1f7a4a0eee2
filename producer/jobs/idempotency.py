"""Idempotency keys as clients send them: what a request is called, and what tells it from another one. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from shared.errors import InvalidRequest
from shared.job import IdempotencyKey

HEADER = "Idempotency-Key"
NAME = re.compile(r"[\x20-\x7e]{1,255}")


def idempotency_key(name: str | None, body: bytes, call: str) -> IdempotencyKey | None:
    """None without a name. The same fields in another order, or with other spaces, are the same request; one that asks
    for something else (`call`: a stream, a batch) is not. Raises InvalidRequest.
    """
    if name is None:
        return None
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"Invalid value for '{HEADER}': expected 1 to 255 printable ASCII characters.", param=HEADER
        )
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    return IdempotencyKey(digest(name.encode()), digest(call.encode(), canonical))


@dataclass(frozen=True, slots=True)
class SdkTry:
    """One of an SDK's tries of a request. `again`: it is not the first."""

    digest: str
    again: bool


def sdk_try(headers: Mapping[str, str], body: bytes, call: str) -> SdkTry | None:
    """What an SDK sends again looks the same to the byte. None where it does not count its tries."""
    tries = headers.get("x-stainless-retry-count")
    return None if tries is None else SdkTry(digest(call.encode(), body), again=tries != "0")


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:32]
