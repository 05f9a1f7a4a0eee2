"""Idempotency keys as clients send them: what a request is called, and what tells it from another one. Pure."""

from __future__ import annotations

import hashlib
import re

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


def sent_digest(retry_count: str | None, body: bytes, call: str) -> str | None:
    """What an SDK sends again looks the same to the byte. None where it does not count its tries."""
    return None if retry_count is None else digest(call.encode(), body)


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:32]
