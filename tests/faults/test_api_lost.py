"""An API process dies: its jobs run on, and every other replica can serve them."""

import asyncio
from collections.abc import AsyncGenerator

import aiohttp

from tests.support.chat import Gate, Prompt, content_of, ended, session_with, submit
from tests.support.cluster import Cluster


async def test_jobs_of_a_killed_api_can_be_followed_on_another_replica(cluster: Cluster, gate: Gate) -> None:
    doomed, other, _ = await asyncio.gather(cluster.api(), cluster.api(), cluster.worker())
    prompt = Prompt(seed=9, tokens=60, gate=gate)
    async with session_with(doomed.url) as session:
        job = await submit(session, prompt)
        seen = await events_of(session, job, until=10)
        doomed.process.kill()
    gate.open()

    async with session_with(other.url) as session:
        rest, everything = await asyncio.gather(events_of(session, job, after=seen[-1][0]), events_of(session, job))
        record, content = await ended(session, job), await content_of(session, job)

    assert seen + rest == everything
    assert [number for number, _ in everything] == list(range(len(everything)))
    assert len(everything) == prompt.tokens + 3, "role, tokens, finish, [DONE]"
    assert (record["status"], record["attempts"], content) == ("completed", 1, prompt.text)


async def events_of(
    session: aiohttp.ClientSession, job: str, *, after: int = -1, until: int | None = None
) -> list[tuple[int, str]]:
    """Returns number and data of a job's events, to its end or up to a number."""
    found: list[tuple[int, str]] = []
    async with session.get(f"/v1/jobs/{job}/events", params={"starting_after": after}) as response:
        async for number, data in events(response):
            found.append((number, data))
            if number == until:
                break
    return found


async def events(response: aiohttp.ClientResponse) -> AsyncGenerator[tuple[int, str]]:
    number = -1
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            yield number, value
