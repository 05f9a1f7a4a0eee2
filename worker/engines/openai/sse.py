"""Decodes server-sent events: takes bytes as they arrive and returns the `data` of complete events."""

from __future__ import annotations

END = b"\n\n"
DONE = b"[DONE]"
NEXT = b"}\ndata:"
BOM = b"\xef\xbb\xbf"
MOST = 64 * 1024 * 1024
"""Most bytes of one event. Some servers send an answer with a picture as one event."""


class EventTooLarge(ValueError):
    """A server has sent more than MOST bytes without the end of the event."""


class FailureEvent(bytes):
    """The data of an event with the name `error`."""


class SseDecoder:
    """Accepts blocks split anywhere, the newlines `\\n`, `\\r\\n` and `\\r`, and lines of any length.

    Reads only `data`, and `event` with the value `error`. A line that begins with `{` is data without `data:`.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._pending_return = b""
        self._begun = False

    def feed(self, received: bytes) -> list[bytes]:
        if not self._begun:
            received = self._without_mark(received)
        if self._pending_return or b"\r" in received:
            received = self._with_plain_newlines(received)
        # The end of an event may be split between two blocks; earlier bytes were searched before.
        searched = max(0, len(self._pending) - 1)
        self._pending += received
        end = self._pending.rfind(END, searched)
        if end < 0:
            return self._unseparated(searched)
        events = bytes(self._pending[:end])
        del self._pending[: end + len(END)]
        return _datas(events)

    def rest(self) -> list[bytes]:
        """Returns the last event if the stream ended without its blank line."""
        rest = bytes(self._pending)
        self._pending.clear()
        return _datas(rest)

    def _unseparated(self, searched: int) -> list[bytes]:
        """Returns the events of a server that ends them with one newline: each line is a complete event."""
        end = self._pending.rfind(NEXT, max(0, searched - len(NEXT))) + 1
        if end and all(_is_whole(line) for line in _data_lines(bytes(self._pending[:end]))):
            events = bytes(self._pending[:end])
            del self._pending[: end + 1]
            return _datas(events)
        if len(self._pending) > MOST:
            raise EventTooLarge(f"an event of more than {MOST:,} bytes")
        return []

    def _without_mark(self, received: bytes) -> bytes:
        """Removes the byte order mark, which may be split between the first blocks."""
        received = bytes(self._pending) + received
        self._pending.clear()
        if len(received) < len(BOM) and BOM.startswith(received):
            self._pending += received
            return b""
        self._begun = True
        return received.removeprefix(BOM)

    def _with_plain_newlines(self, received: bytes) -> bytes:
        received = self._pending_return + received
        self._pending_return = b"\r" if received.endswith(b"\r") else b""
        received = received.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._pending_return and received.endswith(b"\n"):
            # The blank line ends the event. A line feed that belongs to the `\r` may follow and changes nothing.
            self._pending_return = b""
            received += b"\n"
        return received


def _datas(events: bytes) -> list[bytes]:
    return [data for event in events.split(END) for data in _data(event)]


def _data(event: bytes) -> list[bytes]:
    """Returns the event's data: one value, or each line if every line is a complete value."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return [event[6:]]
    lines = _data_lines(event)
    if not lines:
        return []
    data = lines if all(map(_is_whole, lines)) else [b"\n".join(lines)]
    failed = any(line[6:].strip() == b"error" for line in event.split(b"\n") if line.startswith(b"event:"))
    return [FailureEvent(each) for each in data] if failed else data


def _data_lines(event: bytes) -> list[bytes]:
    lines = [line if line.startswith(b"data:") else line.lstrip() for line in event.split(b"\n")]
    return [
        line[5:].removeprefix(b" ") if _is_data(line) else line
        for line in lines
        if _is_data(line) or line.startswith(b"{") or line == DONE
    ]


def _is_data(line: bytes) -> bool:
    """Whether the line is a `data` field. Some servers capitalize the name or indent the line."""
    return line[:5].lower() == b"data:"


def _is_whole(line: bytes) -> bool:
    return (line.startswith(b"{") and line.endswith(b"}")) or line.strip() == DONE
