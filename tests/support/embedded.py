"""Clients of an `ignite up` that is killed repeatedly, and checks that all its promises were kept."""

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.chat import Prompt, Stream, content_of, ended, job_of, session_with, submit
from tests.support.load import answered, some_prompt
from tests.support.run_process import RunningProcess, run_ignite
from tests.support.server import free_ports
from tests.support.wait_until import wait_until

Client = Callable[[aiohttp.ClientSession, random.Random], Awaitable[None]]

READY = "ignite is ready"
ENDLESS = Prompt(tokens=10_000, itl=1000)


class Embedded:
    """One data directory and address, used by one process after another."""

    def __init__(self, data: Path, *options: str) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.database = data / "ignite.db"
        self._command = ("up", "--engine", "simulated", "--data-dir", str(data), "--port", str(port), *options)

    @asynccontextmanager
    async def starting(self) -> AsyncGenerator[RunningProcess]:
        async with run_ignite(*self._command) as process:
            yield process

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[RunningProcess]:
        async with self.starting() as process:
            await process.wait_for(READY)
            yield process

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Reads the database. Use it only while no process runs."""
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(query).fetchall()


async def killed_after(process: RunningProcess, seconds: float) -> None:
    """Kills the process after `seconds`, to hit a moment within its start, whose progress cannot be observed."""
    at = time.monotonic() + seconds
    await wait_until(lambda: time.monotonic() >= at, "the moment to kill", within=seconds + 10)
    process.kill()
    await process.wait()


class Promises:
    """The answers that clients received. A call that is cut off promises only that its job ends."""

    def __init__(self) -> None:
        self.asked = 0
        self.streams: list[Stream] = []
        self.background: dict[str, Prompt] = {}
        self.to_cancel: set[str] = set()
        self.cancelled: set[str] = set()
        self.results: dict[str, bytes] = {}

    @asynccontextmanager
    async def clients(self, url: str, dice: random.Random) -> AsyncGenerator[None]:
        """Makes calls of every kind concurrently, until the server ends."""
        kinds = (self._stream, self._stream, self._call, self._submit, self._cancel)
        async with session_with(url) as session, asyncio.TaskGroup() as clients:
            for kind in kinds:
                clients.create_task(self._until_gone(kind, session, dice))
            yield

    def are_of_every_kind(self) -> bool:
        return bool(self.results and self.cancelled and self.background)

    async def reached(self, more: int) -> None:
        """Waits until that many more frames and answers have arrived."""
        until = self._heard() + more
        await wait_until(lambda: self._heard() >= until, f"{more} more to be heard", within=120)

    def _heard(self) -> int:
        return sum(len(stream.frames) for stream in self.streams) + len(self.background) + len(self.cancelled)

    async def _until_gone(self, kind: Client, session: aiohttp.ClientSession, dice: random.Random) -> None:
        with suppress(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            while True:
                try:
                    await kind(session, dice)
                except AssertionError as refused:
                    if "shutting_down" not in str(refused):
                        raise
                    return

    async def _stream(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        self.asked += 1
        self.streams.append(Stream(some_prompt(dice)))
        await self.streams[-1].read(session)

    async def _call(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        self.asked += 1
        prompt = short_prompt(dice)
        completion = await answered(session, prompt)
        assert completion["choices"][0]["message"]["content"] == prompt.text
        self.background[completion["id"]] = prompt

    async def _submit(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        self.asked += 1
        prompt = short_prompt(dice)
        job = await submit(session, prompt)
        self.background[job] = prompt
        await ended(session, job)
        await self._fetch(session, dice.choice(sorted(self.background)[-20:]))

    async def _cancel(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        self.asked += 1
        job = await submit(session, ENDLESS)
        self.to_cancel.add(job)
        async with session.get(f"/v1/jobs/{job}?wait={dice.random()}"):
            pass  # Some are cancelled while they wait, some while they run.
        await self.cancel(session, job)

    async def cancel(self, session: aiohttp.ClientSession, job: str) -> None:
        async with session.post(f"/v1/jobs/{job}/cancel") as response:
            assert response.status == 200
        record = await ended(session, job)
        assert record["status"] == "cancelled", record
        self.cancelled.add(job)

    async def _fetch(self, session: aiohttp.ClientSession, job: str) -> None:
        """Asserts that a result never changes once it exists."""
        async with session.get(f"/v1/jobs/{job}/result") as response:
            if response.status == 200:
                result = await response.read()
                assert self.results.setdefault(job, result) == result
            else:
                assert response.status == 409

    # ── afterwards ──

    async def are_kept(self, url: str) -> None:
        async with session_with(url) as session:
            for job in self.to_cancel - self.cancelled:
                await self.cancel(session, job)
            await asyncio.gather(*(self._is_resumed(session, stream) for stream in self.streams if stream.job_id))
            await asyncio.gather(*(self._is_completed(session, *each) for each in self.background.items()))
            for job in self.cancelled:
                assert (await job_of(session, job))["status"] == "cancelled"
            for job, result in self.results.items():
                async with session.get(f"/v1/jobs/{job}/result") as response:
                    assert await response.read() == result
            await wait_until(lambda: nothing_unfinished(session), "every job to be over", within=120)

    async def _is_resumed(self, session: aiohttp.ClientSession, stream: Stream) -> None:
        """Asserts that the bytes from before the kill and from after it form the whole stream."""
        if not stream.frames or stream.frames[-1] != "data: [DONE]\n\n":
            events = f"/v1/jobs/{stream.job_id}/events?starting_after={len(stream.frames) - 1}"
            async with session.get(events) as response:
                lines = (await response.text()).splitlines()
            rest = "".join(f"{line}\n\n" for line in lines if line.startswith("data: "))
            stream.go_on_with(rest.encode())
        stream.assert_whole()

    async def _is_completed(self, session: aiohttp.ClientSession, job: str, prompt: Prompt) -> None:
        assert (await ended(session, job))["status"] == "completed"
        assert await content_of(session, job) == prompt.text


def short_prompt(dice: random.Random) -> Prompt:
    return Prompt(dice.randrange(1000), dice.randint(5, 20), itl=10)


async def job_list(session: aiohttp.ClientSession, **where: str) -> list[dict[str, Any]]:
    async with session.get("/v1/jobs", params={"limit": "100", **where}) as response:
        assert response.status == 200
        return (await response.json())["data"]


async def nothing_unfinished(session: aiohttp.ClientSession) -> bool:
    return not await job_list(session, status="queued") and not await job_list(session, status="in_progress")
