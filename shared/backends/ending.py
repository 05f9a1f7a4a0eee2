"""The stored form of an ending: a JSON header, and the bytes of the result."""

from __future__ import annotations

import orjson

from shared.job import JobStatus
from shared.ports import Ending


def encode_ending(ending: Ending) -> bytes:
    """Returns the header: everything but the frames, which are in the log, and the result, which is stored as it is."""
    return orjson.dumps({"status": ending.status, "usage": ending.usage, "error": ending.error})


def decode_ending(header: bytes, result: bytes | None) -> Ending:
    fields = orjson.loads(header)
    return Ending(JobStatus(fields["status"]), result=result, usage=fields["usage"], error=fields["error"])
