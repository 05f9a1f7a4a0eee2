"""An ending as the stores keep it: a header of JSON beside the result's own bytes."""

from __future__ import annotations

import orjson

from shared.job import JobStatus
from shared.ports import Ending


def encode_ending(ending: Ending) -> bytes:
    """Everything but the frames (they are in the log) and the result (kept as it is)."""
    return orjson.dumps({"status": ending.status, "usage": ending.usage, "error": ending.error})


def decode_ending(header: bytes, result: bytes | None) -> Ending:
    fields = orjson.loads(header)
    return Ending(JobStatus(fields["status"]), result=result, usage=fields["usage"], error=fields["error"])
