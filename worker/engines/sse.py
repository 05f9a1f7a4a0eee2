"""Server-sent events, received: bytes in as they come, the `data` of whole events out."""

from __future__ import annotations

END = b"\n\n"


class SseDecoder:
    """Takes chunks cut anywhere, `\\n` or `\\r\\n`, and lines of any length; only `data` fields count."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._return_held = b""

    def feed(self, received: bytes) -> list[bytes]:
        if self._return_held or b"\r" in received:
            received = self._with_plain_newlines(received)
        # The end of an event may be cut in two; what lies before was searched when it came.
        searched = max(0, len(self._pending) - 1)
        self._pending += received
        end = self._pending.rfind(END, searched)
        if end < 0:
            return []
        events = bytes(self._pending[:end])
        del self._pending[: end + len(END)]
        return _datas(events)

    def rest(self) -> list[bytes]:
        """An event the stream ended in without its blank line."""
        rest = bytes(self._pending)
        self._pending.clear()
        return _datas(rest)

    def _with_plain_newlines(self, received: bytes) -> bytes:
        received = self._return_held + received
        self._return_held = b"\r" if received.endswith(b"\r") else b""
        return received.removesuffix(b"\r").replace(b"\r\n", b"\n")


def _datas(events: bytes) -> list[bytes]:
    return [data for event in events.split(END) if (data := _data(event)) is not None]


def _data(event: bytes) -> bytes | None:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [_value(line) for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def _value(line: bytes) -> bytes:
    return line.removeprefix(b"data:").removeprefix(b" ")
