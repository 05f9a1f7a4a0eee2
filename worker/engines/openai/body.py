"""Splits a response's body into events. Detects its format (server-sent events, one JSON value, or a web page) from its
first byte, because content types are unreliable.
"""

from __future__ import annotations

from worker.engines.openai.failures import malformed
from worker.engines.openai.normalizing.json_text import is_readable, is_strict
from worker.engines.openai.sse import BOM, DONE, MOST, EventTooLarge, SseDecoder


class AnswerBody:
    """`feed` returns the data of the events that a block completes, `end` the rest. Both raise EngineError."""

    def __init__(self) -> None:
        self._begin = bytearray()
        self._decoder: SseDecoder | None = None
        self._is_json = False

    def feed(self, block: bytes) -> list[bytes]:
        if self._decoder is not None:
            return self._decoded(self._decoder, block)
        self._begin += block
        if len(self._begin) > MOST:
            raise malformed(f"its answer has more than {MOST:,} bytes", bytes(self._begin[:200]))
        if self._is_json:
            return []
        if not (begin := self._begun()):
            if self._begin.isspace():
                self._begin.clear()
            return []
        if begin in b"{[":
            self._is_json = True
            return []
        if begin == b"<":
            raise malformed("its answer is a web page instead of JSON", bytes(self._begin))
        self._decoder = SseDecoder()
        block = bytes(self._begin)
        self._begin.clear()
        return self._decoded(self._decoder, block)

    def end(self) -> list[bytes]:
        if self._decoder is not None:
            return self._decoder.rest()
        received = bytes(self._begin)
        if not received.strip() or is_readable(received):
            return [received] if received.strip() else []
        lines = SseDecoder()  # Events without `data:`, or one JSON value per line.
        return [*lines.feed(received), *lines.rest()]

    def salvaged(self, block: bytes) -> list[bytes]:
        """Returns the events that were complete when the connection broke. `block`: the last bytes received."""
        events = self.feed(block) if block else []
        if self._decoder is not None:
            return events + [data for data in self._decoder.rest() if data.strip() == DONE or is_strict(data)]
        return [bytes(self._begin)] if self._is_json and is_strict(bytes(self._begin)) else []

    def _begun(self) -> bytes:
        """Returns the first byte that is not white space, empty while there is none. Servers send white space as a
        keep-alive.
        """
        rest = bytes(self._begin[:64]).removeprefix(BOM).lstrip() or bytes(self._begin).removeprefix(BOM).lstrip()
        return rest[:1] if rest != BOM[: len(rest)] else b""

    def _decoded(self, decoder: SseDecoder, block: bytes) -> list[bytes]:
        try:
            return decoder.feed(block)
        except EventTooLarge as error:
            raise malformed(f"it sends {error}", b"") from error
