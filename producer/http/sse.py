"""SSE beside the frames themselves: keep-alives, and frames with their numbers. Pure."""

from __future__ import annotations

from shared.frames import FRAME_END
from shared.job import JobStatus


def keepalive(
    status: JobStatus, *, alive: bool, position: int | None, eta: float | None, workers: int | None = None
) -> str:
    """The comment's text. `running` only while the worker that holds the job is alive; `workers=0` where none is there
    that could take it.
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
    """A log's frames, each without the blank line that ends it. Bytes may come cut anywhere; a frame leaves when it is
    whole.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *frames, self._rest = (self._rest + data).split(FRAME_END)
        return frames


class Numbered:
    """Gives each frame of a log its sequence number as `id:`, from the frame after number `after` onwards."""

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
