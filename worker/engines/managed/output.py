"""What a serving process prints: each line becomes a log event with its level, and the last ones explain its end."""

from __future__ import annotations

import asyncio
import re
from collections import deque

import structlog

log = structlog.get_logger(__name__)

LONGEST_LINE = 2000
"""Characters of a line that are kept."""

REMEMBERED = 200
"""Lines: vLLM's processes each print a traceback, the cause first."""

BLOCK = 64 * 1024

# `INFO 11-28 18:49:07 [api_server.py:123] …` after `(EngineCore pid=7) ` or nothing; uvicorn's `INFO:     …`.
PREFIXED = re.compile(
    r"^(?:\([^()]{1,40}\) )?(?P<level>DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)(?::| +\d\d-\d\d \d\d:\d\d:\d\d)\s*"
    r"(?P<said>.*)$"
)
BY_PROCESS = re.compile(r"^\([^()]{1,40}\) ")
ACCESS = re.compile(r'"(GET|POST|PUT|DELETE|HEAD|OPTIONS) \S+ HTTP/\d(\.\d)?" \d{3}')
PLACE = re.compile(r"^\[[\w./-]+:\d+\] ?")
CAUSE = re.compile(
    r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b: .+|^[\w./ -]{1,60}: error: .+|^(?:error|fatal): .+",
    re.IGNORECASE,
)
CONSEQUENCE = re.compile(
    r"Engine core initialization failed|Engine process failed to start|EngineDeadError|See stack trace"
)
"""Errors of vLLM that only say that another one has come before."""


def parsed(line: str, level: str = "info") -> tuple[str, str]:
    """Returns the level of the line, and what it says. A line without a level, as of a traceback, has the last `level`.
    One line for each HTTP request is of use to those who debug only.
    """
    found = PREFIXED.match(line)
    if found is None:
        return level, line
    named = found["level"].lower().replace("critical", "error")
    said = found["said"]
    if ACCESS.search(said):
        return "debug", said
    return "warning" if named == "warn" else named, said


def bare(line: str) -> str:
    """Returns the line without process, level, time and place."""
    return PLACE.sub("", parsed(BY_PROCESS.sub("", line))[1]).strip()


class Output:
    """The output of one process. `name` is what its log events call it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: deque[str] = deque(maxlen=REMEMBERED)
        self._level = "info"

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Logs lines until the process has closed its output. A long one is cut: it must not fill the memory."""
        rest = ""
        while block := await stream.read(BLOCK):
            *lines, rest = (rest + block.decode(errors="replace")).replace("\r", "\n").split("\n")
            for line in lines:
                self._take(line)
            rest = rest[:LONGEST_LINE]
        self._take(rest)

    @property
    def last_words(self) -> str:
        """Returns the last error that is no consequence of an earlier one; without errors the last line."""
        said = [bare(line) for line in self._lines]
        causes = [line for line in said if CAUSE.match(line)]
        roots = [line for line in causes if not CONSEQUENCE.search(line)] or causes or said
        return roots[-1] if roots else ""

    def _take(self, line: str) -> None:
        line = line.rstrip()[:LONGEST_LINE]
        if not line:
            return
        self._lines.append(line)
        level, said = parsed(line, self._level)
        if level != "debug":
            self._level = level
        report = {"debug": log.debug, "info": log.info, "warning": log.warning, "error": log.error}[level]
        report("engine.output", process=self._name, said=said)
