"""The load: connections that make one call after another, on raw sockets with requests encoded beforehand, so that the
generator costs little of the machine it shares. Every byte of every answer is checked once the answer is whole.
"""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from dataclasses import dataclass, field
from typing import Any

import orjson

from benchmarks.answers import TOKENS, request_body, text_of

LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
LAST_CHUNK = b"0\r\n\r\n"
CONNECTIONS_AN_ADDRESS = 20_000
TOKEN_MARK = b'"content":" t'
PIECES = tuple(token.encode() for token in TOKENS)


class WrongAnswer(Exception):
    """An answer that differs from the expected bytes."""


@dataclass(frozen=True, slots=True)
class Load:
    """A workload. `connections`: calls at a time; `tokens`: of each answer; `itl` in milliseconds, other times in
    seconds. `once`: each connection makes one call, and the lateness of every token is measured.
    """

    connections: int
    tokens: int
    seconds: float
    warm_up: float
    stream: bool = True
    itl: int = 0
    ramp: float = 0.0
    once: bool = False


@dataclass(slots=True)
class Seen:
    """The results within the measured time, in seconds. For calls made `once`: the time to every first token, and how
    late every token was compared with its position times the pace.
    """

    calls: int = 0
    tokens: int = 0
    all_calls: int = 0
    elapsed: float = 0.0
    generator_cpu: float = 0.0
    first: array[float] = field(default_factory=lambda: array("d"))
    gaps: array[float] = field(default_factory=lambda: array("d"))
    latencies: array[float] = field(default_factory=lambda: array("d"))
    late: array[float] = field(default_factory=lambda: array("d"))


def quantile(values: array[float], share: float) -> float:
    """Returns the quantile, or 0 if there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def request_of(body: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


class Caller(asyncio.Protocol):
    """Makes one call after another over one connection, until `until`."""

    def __init__(self, load: Load, seen: Seen, number: int, window: tuple[float, float], over: asyncio.Future[None]):
        self._load, self._seen, self._window, self._over = load, seen, window, over
        self._seed = number * 37 % 1000
        self._taken: list[bytes] = []
        self._asked = self._last = 0.0
        self._at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(WrongAnswer(f"the connection was lost: {exc}"))

    def _ask(self) -> None:
        self._seed = (self._seed + 101) % 1000
        self._taken, self._asked, self._last = [], time.perf_counter(), 0.0
        body = request_body(self._seed, self._load.tokens, stream=self._load.stream, itl=self._load.itl)
        self._transport.write(request_of(body))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        refused = not self._taken and not data.startswith(b"HTTP/1.1 200 ")
        self._taken.append(data)
        if self._load.stream:
            self._note_tokens(data.count(TOKEN_MARK), now)
            whole = data.endswith(LAST_CHUNK)
        else:
            whole = data.endswith(b"}")
        if whole or refused:
            self._finish(now)

    def _note_tokens(self, count: int, now: float) -> None:
        if not count:
            return
        counted = self._window[0] <= now < self._window[1]
        if self._load.once:
            self._note_lateness(count, now)
        if not self._last:
            if counted or self._load.once:
                self._seen.first.append(now - self._asked)
        elif counted:
            self._seen.gaps.append(now - self._last)
        if counted:
            self._seen.tokens += count
            self._seen.gaps.extend((0.0,) * (count - 1))
        self._last = now

    def _note_lateness(self, count: int, now: float) -> None:
        for at in range(self._at, self._at + count):
            self._seen.late.append(now - self._asked - at * self._load.itl / 1000)
        self._at += count

    def _finish(self, now: float) -> None:
        try:
            answer = b"".join(self._taken)
            check = check_stream if self._load.stream else check_unary
            check(answer, self._seed, self._load.tokens)
        except (WrongAnswer, ValueError, KeyError, IndexError) as error:
            if not self._over.done():
                self._over.set_exception(WrongAnswer(f"{error!r} in {b''.join(self._taken)[:600]!r}"))
            self._transport.close()
            return
        self._seen.all_calls += 1
        if self._window[0] <= now < self._window[1]:
            self._seen.calls += 1
            self._seen.latencies.append(now - self._asked)
        if now < self._window[1] and not self._load.once:
            self._ask()
        elif not self._over.done():
            self._over.set_result(None)
            self._transport.close()


def body_of(answer: bytes) -> bytes:
    """Returns the body of an answer, with or without chunked encoding."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise WrongAnswer(head.decode(errors="replace"))
    if b"chunked" not in head.lower():
        return rest
    parts: list[bytes] = []
    at = 0
    while size := int(rest[at : (end := rest.index(b"\r\n", at))], 16):
        parts.append(rest[end + 2 : end + 2 + size])
        at = end + 4 + size
    if rest[at:] != LAST_CHUNK:
        raise WrongAnswer("something came after the last chunk")
    return b"".join(parts)


def check_stream(answer: bytes, seed: int, tokens: int) -> None:
    """Checks a stream: head, role, each token in its own frame and in order, finish and end. Comments are allowed."""
    frames = [frame for frame in body_of(answer).split(b"\n\n") if not frame.startswith(b":")]
    if len(frames) != tokens + 4 or frames[-2:] != [b"data: [DONE]", b""]:
        raise WrongAnswer(f"{len(frames)} frames, the last ones {frames[-3:]}")
    role, first, finish = frames[0], frames[1], frames[-3]
    begin = first.index(b'"delta":') + len(b'"delta":')
    start = first.index(TOKEN_MARK) + len(b'"content":"')
    before, after = first[:start], first[start + 5 :]
    if frames[1:-3] != [before + PIECES[(seed + at) % 1000] + after for at in range(tokens)]:
        raise WrongAnswer("the text is not what was asked for")
    if not (role.startswith(first[:begin]) and b'"role":"assistant"' in role and finish.startswith(first[:begin])):
        raise WrongAnswer("a frame of another answer")
    if b'"finish_reason":"stop"' not in finish or b"error" in finish:
        raise WrongAnswer("no finish")


def check_unary(answer: bytes, seed: int, tokens: int) -> None:
    completion = orjson.loads(body_of(answer))
    (choice,) = completion["choices"]
    if choice["message"]["content"] != text_of(seed, tokens) or choice["finish_reason"] != "stop":
        raise WrongAnswer("the text is not what was asked for")
    if completion["usage"]["completion_tokens"] != tokens:
        raise WrongAnswer("the usage is wrong")


def source_of(number: int) -> tuple[str, int] | None:
    """Returns the address to connect from: one loopback address has ports for only about 28,000 connections."""
    address = number // CONNECTIONS_AN_ADDRESS
    return (f"127.0.0.{1 + address}", 0) if address else None


async def run_load(port: int, load: Load, seen: Seen | None = None) -> Seen:
    """Runs the workload. Waits for all calls and checks them. `seen` may be read meanwhile. Raises WrongAnswer."""
    loop, seen = asyncio.get_running_loop(), seen or Seen()
    began, cpu = time.perf_counter(), time.process_time()
    start = began + load.warm_up
    window = start, start + load.seconds
    over: list[asyncio.Future[None]] = []
    for number in range(load.connections):
        if load.ramp:
            await asyncio.sleep(max(0.0, began + load.ramp * number / load.connections - time.perf_counter()))
        done: asyncio.Future[None] = loop.create_future()
        over.append(done)
        await loop.create_connection(
            lambda n=number, d=done: Caller(load, seen, n, window, d), "127.0.0.1", port, local_addr=source_of(number)
        )
    await asyncio.gather(*over)
    seen.elapsed = load.seconds
    seen.generator_cpu = (time.process_time() - cpu) / (time.perf_counter() - began)
    return seen


async def submit(port: int, jobs: int, tokens: int, connections: int) -> None:
    """Submits that many background jobs. Raises WrongAnswer unless each is accepted."""
    numbers = iter(range(jobs))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            writer.write(request_of(request_body(number, tokens, stream=False, itl=0, background=True)))
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(LENGTH.search(head)[1]))
            if not head.startswith(b"HTTP/1.1 202") or b'"status":"queued"' not in body:
                raise WrongAnswer((head + body).decode(errors="replace"))
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(connections, jobs)):
            group.create_task(client())
