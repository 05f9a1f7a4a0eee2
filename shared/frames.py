"""SSE frames as bytes: `data: {…}` and a blank line. The worker encodes each frame once; it is only copied after
that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

FRAME_END = b"\n\n"
DONE = b"data: [DONE]\n\n"


def frame(data: Any) -> bytes:
    """Returns one event. JSON text contains no newline, so a blank line always ends a frame."""
    return b"data: " + orjson.dumps(data) + FRAME_END


def error_frames(error: Mapping[str, Any]) -> bytes:
    """Returns an in-band error and `[DONE]`. SDKs would take `[DONE]` without the error for success."""
    return frame({"error": error}) + DONE


def count_frames(data: bytes) -> int:
    return data.count(FRAME_END)
