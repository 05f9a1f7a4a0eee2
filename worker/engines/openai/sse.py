"""Server-sent events, received: bytes in as they come, the `data` of whole events out."""

from __future__ import annotations

END = b"\n\n"
DONE = b"[DONE]"
NEXT = b"}\ndata:"
BOM = b"\xef\xbb\xbf"
MOST = 64 * 1024 * 1024
"""Bytes that one event may have: an answer with a picture in it is one event of some servers."""


class EventTooLarge(ValueError):
    """A server has sent more than any event has, and no end of it."""


class FailureEvent(bytes):
    """The data of an event that is named `error`."""


class SseDecoder:
    """Takes blocks cut anywhere, `\\n`, `\\r\\n` or `\\r`, and lines of any length.

    Only `data` and an `event` that says `error` count. A line that begins with `{` is data without its name.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._return_held = b""
        self._begun = False

    def feed(self, received: bytes) -> list[bytes]:
        if not self._begun:
            received = self._without_mark(received)
        if self._return_held or b"\r" in received:
            received = self._with_plain_newlines(received)
        # The end of an event may be cut in two; what lies before was searched when it came.
        searched = max(0, len(self._pending) - 1)
        self._pending += received
        end = self._pending.rfind(END, searched)
        if end < 0:
            return self._unseparated(searched)
        events = bytes(self._pending[:end])
        del self._pending[: end + len(END)]
        return _datas(events)

    def rest(self) -> list[bytes]:
        """An event the stream ended in without its blank line."""
        rest = bytes(self._pending)
        self._pending.clear()
        return _datas(rest)

    def _unseparated(self, searched: int) -> list[bytes]:
        """Events of a server that ends them with one line feed: each is one line, and whole."""
        end = self._pending.rfind(NEXT, max(0, searched - len(NEXT))) + 1
        if end and all(_is_whole(line) for line in _data_lines(bytes(self._pending[:end]))):
            events = bytes(self._pending[:end])
            del self._pending[: end + 1]
            return _datas(events)
        if len(self._pending) > MOST:
            raise EventTooLarge(f"an event of more than {MOST:,} bytes")
        return []

    def _without_mark(self, received: bytes) -> bytes:
        """Without the byte order mark, of which the first block may have only a part."""
        received = bytes(self._pending) + received
        self._pending.clear()
        if len(received) < len(BOM) and BOM.startswith(received):
            self._pending += received
            return b""
        self._begun = True
        return received.removeprefix(BOM)

    def _with_plain_newlines(self, received: bytes) -> bytes:
        received = self._return_held + received
        self._return_held = b"\r" if received.endswith(b"\r") else b""
        received = received.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._return_held and received.endswith(b"\n"):
            # A blank line ends the event, whether a line feed follows or not.
            self._return_held = b""
            received += b"\n"
        return received


def _datas(events: bytes) -> list[bytes]:
    return [data for event in events.split(END) for data in _data(event)]


def _data(event: bytes) -> list[bytes]:
    """The event's data; of one whose lines are whole values of their own, each line."""
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
    """Some servers write the field's name with a capital, or behind blanks."""
    return line[:5].lower() == b"data:"


def _is_whole(line: bytes) -> bool:
    return (line.startswith(b"{") and line.endswith(b"}")) or line.strip() == DONE
