"""Builds SSE keep-alive comments, splits logs into frames, and numbers frames. Pure."""

from __future__ import annotations

from shared.frames import FRAME_END
from shared.job import JobStatus


def keepalive(
    status: JobStatus, *, alive: bool, position: int | None, eta: float | None, workers: int | None = None
) -> str:
    """Returns the comment's text. `position` counts from 0, `eta` is in seconds. `running` only while the job's worker
    is alive; `workers=0` if no worker serves its model.
    """
    if status is JobStatus.IN_PROGRESS and alive:
        return ": running"
    words = [": queued"]
    if position is not None:
        words.append(f"position={position + 1}")
    if eta is not None:
        words.append(f"eta={round(eta)}s")
    if workers == 0:
        words.append("workers=0")
    return " ".join(words)


class Frames:
    """Splits a log's bytes, which may be cut anywhere, into whole frames without the blank line at their end."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def between(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._rest

    def feed(self, data: bytes) -> list[bytes]:
        *frames, self._rest = (self._rest + data).split(FRAME_END)
        return frames


class Numbered:
    """Adds each frame's sequence number as `id:`. Drops the frames up to number `after`."""

    def __init__(self, after: int = -1) -> None:
        self._after = after
        self._next = 0
        self._frames = Frames()

    def feed(self, data: bytes) -> bytes:
        frames = self._frames.feed(data)
        first, self._next = self._next, self._next + len(frames)
        numbered = enumerate(frames, first)
        return b"".join(
            b"id: %d\n%s%s" % (number, text, FRAME_END) for number, text in numbered if number > self._after
        )
