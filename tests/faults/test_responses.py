"""The worker and the API of a background response die in the middle: another replica goes on with its events."""

import asyncio
from typing import Any

import aiohttp
import orjson

from tests.support.chat import Gate, session_with
from tests.support.cluster import Cluster
from tests.support.wait_until import wait_until

TOKENS = 60


async def test_a_background_response_outlives_its_worker_and_its_api(cluster: Cluster, gate: Gate) -> None:
    doomed, other, worker = await asyncio.gather(cluster.api(), cluster.api(), cluster.worker())
    asked = {"model": "simulated", "input": f"seed=5{gate}", "max_output_tokens": TOKENS}
    async with session_with(doomed.url) as session:
        seen = await first_events(session, asked | {"background": True, "stream": True}, until=9)
        path = f"/v1/responses/{seen[0]['response']['id']}"
        heir = await cluster.worker()
        worker.kill()
        doomed.process.kill()
    await heir.wait_for("attempt.resumes")
    gate.open()

    async with session_with(other.url) as session:
        rest = await events(session, f"{path}?stream=true&starting_after={seen[-1]['sequence_number']}")
        everything = await events(session, f"{path}?stream=true")
        response = await wait_until(lambda: over(session, path), "the response's end")

    assert seen + rest == everything
    assert [event["sequence_number"] for event in everything] == list(range(len(everything)))
    deltas = [event["delta"] for event in everything if event["type"] == "response.output_text.delta"]
    assert deltas == [f" t{5 + at:03d}" for at in range(TOKENS)]
    assert everything[-1]["response"] == response
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("completed", "".join(deltas))


async def first_events(session: aiohttp.ClientSession, asked: dict[str, Any], *, until: int) -> list[Any]:
    found: list[Any] = []
    async with session.post("/v1/responses", json=asked) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                found.append(orjson.loads(line[6:]))
            if found and found[-1]["sequence_number"] == until:
                return found
    raise AssertionError(found)


async def events(session: aiohttp.ClientSession, path: str) -> list[Any]:
    async with session.get(path) as response:
        lines = (await response.read()).splitlines()
    return [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: ")]


async def over(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as response:
        found = await response.json()
    return found if found["status"] == "completed" else None
