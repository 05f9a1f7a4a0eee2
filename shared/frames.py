"""SSE frames as bytes: `data: {…}` and a blank line. Encoded once, by whoever makes them; everyone else moves bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

FRAME_END = b"\n\n"
DONE = b"data: [DONE]\n\n"


def frame(data: Any) -> bytes:
    """One event. JSON text has no newline in it, so a blank line ends a frame and nothing else does."""
    return b"data: " + orjson.dumps(data) + FRAME_END


def error_frames(error: Mapping[str, Any]) -> bytes:
    """An in-band error and the end: never a clean end without the error, which SDKs take for success."""
    return frame({"error": error}) + DONE


def count_frames(data: bytes) -> int:
    return data.count(FRAME_END)
