"""Calls to a server with the simulated engine, whose answers follow from the request."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.wait_until import wait_until

DONE = "data: [DONE]\n\n"
COMMENT = re.compile(r"(?m)^:.*\n+")


@dataclass(frozen=True)
class Gate:
    """A gate that stops answers until the test opens it, in every process (`tests/support/gated.py`): after their first
    tokens, or before them if `silent`.
    """

    path: Path
    silent: bool = False

    def __str__(self) -> str:
        return f" {'silent' if self.silent else 'gate'}={self.path}"

    def open(self) -> None:
        self.path.touch()


@dataclass(frozen=True)
class Prompt:
    """A request. `itl`, `ttft`: milliseconds. A constrained answer can only be replayed, not continued. One
    with a `gate` stops until the gate is open.
    """

    seed: int = 0
    tokens: int = 20
    itl: int = 0
    ttft: int = 0
    constrained: bool = False
    gate: Gate | None = None

    def body(self, **more: Any) -> dict[str, Any]:
        says = f"seed={self.seed} itl={self.itl} ttft={self.ttft}{self.gate or ''}"
        body = {"model": "simulated", "max_tokens": self.tokens, "messages": [{"role": "user", "content": says}]}
        return body | ({"response_format": {"type": "json_object"}} if self.constrained else {}) | more

    @property
    def words(self) -> list[str]:
        return [f" t{(self.seed + at) % 1000:03d}" for at in range(self.tokens)]

    @property
    def text(self) -> str:
        return "".join(self.words)

    def stream(self, head: dict[str, Any]) -> str:
        """Returns the whole stream of a job whose chunks share `head`."""
        return stream_of(head, self.words)


def stream_of(head: dict[str, Any], words: Iterable[str]) -> str:
    """Returns a whole stream whose chunks share `head` and have the text `words`."""
    role = choice({"role": "assistant", "content": ""})
    choices = [role, *(choice({"content": word}) for word in words), choice({}, "stop")]
    return "".join(f"data: {compact({**head, 'choices': [each]})}\n\n" for each in choices) + DONE


def choice(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class Stream:
    """A streamed call, and its answer so far. Comments are ignored."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.status = 0
        self.job_id = ""
        self.longest_silence = 0.0
        self._data = bytearray()

    async def read(self, session: aiohttp.ClientSession, **more: Any) -> None:
        async with session.post("/v1/chat/completions", json=self.prompt.body(stream=True, **more)) as response:
            self.status, self.job_id = response.status, response.headers.get("x-job-id", "")
            heard = time.monotonic()
            async for data in response.content.iter_any():
                self._data += data
                heard, before = time.monotonic(), heard
                self.longest_silence = max(self.longest_silence, heard - before)

    def go_on_with(self, data: bytes) -> None:
        """Adds bytes that were received in another way, after the present frames."""
        self._data = bytearray("".join(self.frames).encode() + data)

    @property
    def frames(self) -> list[str]:
        """The complete frames, without comments."""
        parts = COMMENT.sub("", self._data.decode(errors="replace")).split("\n\n")[:-1]
        return [part + "\n\n" for part in parts]

    @property
    def comments(self) -> list[str]:
        return [line.rstrip("\n") for line in COMMENT.findall(self._data.decode())]

    def assert_whole(self) -> None:
        """Asserts that the stream equals an undisturbed answer, byte for byte."""
        assert self.status == 200, self._data.decode()
        assert self._data.endswith(b"\n\n"), self._data[-300:]
        frames = self.frames
        head: dict[str, Any] = json.loads(frames[0].removeprefix("data: "))
        del head["choices"]
        assert head["id"] == self.job_id
        assert "".join(frames) == self.prompt.stream(head)


async def reached(streams: Sequence[Stream], frames: int) -> None:
    """Waits until every call has received that many frames."""
    await wait_until(
        lambda: all(len(stream.frames) >= frames for stream in streams),
        f"{len(streams)} streams to have {frames} frames",
        seen=lambda: [len(stream.frames) for stream in streams],
    )


@asynccontextmanager
async def session_with(url: str) -> AsyncGenerator[aiohttp.ClientSession]:
    """Returns a client without limits on connections and time."""
    wire = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=wire, timeout=aiohttp.ClientTimeout(None)) as session:
        yield session


@asynccontextmanager
async def streaming(url: str, prompts: Iterable[Prompt], **more: Any) -> AsyncGenerator[Sequence[Stream]]:
    """Runs the streams while inside, and waits for their end on exit."""
    streams = [Stream(prompt) for prompt in prompts]
    async with session_with(url) as session, asyncio.TaskGroup() as calls:
        for stream in streams:
            calls.create_task(stream.read(session, **more))
        yield streams


async def job_of(session: aiohttp.ClientSession, job_id: str) -> dict[str, Any]:
    async with session.get(f"/v1/jobs/{job_id}") as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def submit(session: aiohttp.ClientSession, prompt: Prompt, **more: Any) -> str:
    async with session.post("/v1/chat/completions", json=prompt.body(background=True, **more)) as response:
        assert response.status == 202, await response.text()
        return (await response.json())["id"]


async def ended(session: aiohttp.ClientSession, job_id: str) -> dict[str, Any]:
    """Waits until the job is over, and returns it."""
    job = await job_of(session, job_id)
    while job["status"] in ("queued", "in_progress"):
        job = await job_of(session, f"{job_id}?wait=30")
    return job


async def content_of(session: aiohttp.ClientSession, job_id: str) -> str:
    async with session.get(f"/v1/jobs/{job_id}/result") as response:
        return (await response.json())["choices"][0]["message"]["content"]
