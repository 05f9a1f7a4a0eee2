"""Clients that call continuously while a test disturbs the processes that serve them."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support.chat import Prompt, Stream, content_of, ended, session_with, submit

CLIENTS = {"stream": 3, "unary": 2, "background": 1}


@dataclass
class Load:
    """The requests so far, and their answers."""

    url: str
    streams: list[Stream] = field(default_factory=list[Stream])
    unary: list[tuple[Prompt, dict[str, Any]]] = field(default_factory=list[tuple[Prompt, dict[str, Any]]])
    jobs: dict[str, Prompt] = field(default_factory=dict[str, Prompt])

    async def attempts(self) -> list[int]:
        """Asserts the outcome of every job when all are over: streams and texts are the expected ones."""
        for stream in self.streams:
            stream.assert_whole()
        for prompt, completion in self.unary:
            assert completion["choices"][0]["message"]["content"] == prompt.text
        async with session_with(self.url) as session:
            for job, prompt in self.jobs.items():
                assert (await ended(session, job))["status"] == "completed"
                assert await content_of(session, job) == prompt.text
            called = [stream.job_id for stream in self.streams] + [answer["id"] for _, answer in self.unary]
            return [(await ended(session, job))["attempts"] for job in [*called, *self.jobs]]


@asynccontextmanager
async def load_on(url: str) -> AsyncGenerator[Load]:
    """Each client makes one call after another while inside, and finishes its last call on exit."""
    load, over, dice = Load(url), asyncio.Event(), random.Random(1)
    async with session_with(url) as session, asyncio.TaskGroup() as clients:
        for kind, count in CLIENTS.items():
            for _ in range(count):
                clients.create_task(_call_on(load, session, kind, dice, over))
        try:
            yield load
        finally:
            over.set()


async def _call_on(
    load: Load, session: aiohttp.ClientSession, kind: str, dice: random.Random, over: asyncio.Event
) -> None:
    while not over.is_set():
        prompt = some_prompt(dice)
        if kind == "stream":
            load.streams.append(Stream(prompt))
            await load.streams[-1].read(session)
        elif kind == "unary":
            load.unary.append((prompt, await answered(session, prompt)))
        else:
            load.jobs[await submit(session, prompt)] = prompt
            # One at a time: an unlimited supply of jobs would only measure how fast they are refused.
            await ended(session, list(load.jobs)[-1])


def some_prompt(dice: random.Random) -> Prompt:
    return Prompt(dice.randrange(1000), dice.randint(20, 60), itl=20, constrained=dice.random() < 0.3)


async def answered(session: aiohttp.ClientSession, prompt: Prompt) -> dict[str, Any]:
    async with session.post("/v1/chat/completions", json=prompt.body()) as response:
        assert response.status == 200, await response.text()
        return await response.json()
