"""An answer whose worker, connection or vLLM is lost ends as the undisturbed one does: the same text, byte for byte,
the same end and the same usage.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.support.chat import session_with
from tests.support.cluster import Api, Cluster
from tests.support.run_process import RunningProcess
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait_until import wait_until
from tests.vllm.server import Vllm

CUTS = 25
"""Takeovers of each kind, streams and jobs, for each template."""

KILLS = 5
"""The same of killed workers: each takes seconds to start."""

TOKENS = 300


@dataclass
class Undisturbed:
    body: dict[str, Any]
    content: str
    finish_reason: str
    usage: dict[str, int]


async def undisturbed(server: Vllm, dice: random.Random) -> Undisturbed:
    """A greedy request that the model babbles on for a while, and its answer by vLLM alone. A third has a stop string
    in the last part of its text, a third is free to end.
    """
    kind = dice.choice(["plain", "stops", "ends"])
    words = " ".join(dice.choice(["the", "quick", "brown", "fox", "🦊", "日本", "jumps"]) for _ in range(6))
    body = {"messages": [{"role": "user", "content": words}], "temperature": 0, "max_tokens": TOKENS}
    if kind != "ends":
        body["ignore_eos"] = True
    found = await server.answer(body)
    if kind == "stops":
        text: str = found["choices"][0]["message"]["content"]
        at = dice.randrange(len(text) * 2 // 3, len(text) - 6)
        body["stop"] = ["never said", text[at : at + dice.randrange(1, 6)]]
        found = await server.answer(body)
    (choice,) = found["choices"]
    return Undisturbed(body, choice["message"]["content"], choice["finish_reason"], counts(found["usage"]))


def counts(usage: dict[str, Any]) -> dict[str, int]:
    return {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


class Reading:
    """A streamed call, as far as it has come."""

    def __init__(self) -> None:
        self.text = ""
        self.job_id = ""
        self.finish_reason: str | None = None
        self.usage: dict[str, int] = {}

    async def stream(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        more = {"stream": True, "stream_options": {"include_usage": True}}
        async with session.post("/v1/chat/completions", json={**body, **more}) as response:
            assert response.status == 200, await response.text()
            self.job_id = response.headers["x-job-id"]
            await self._read(response)

    async def job(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        """A background job, followed by its events and fetched at its end."""
        async with session.post("/v1/chat/completions", json={**body, "background": True}) as response:
            assert response.status == 202, await response.text()
            self.job_id = (await response.json())["id"]
        async with session.get(f"/v1/jobs/{self.job_id}/events") as response:
            await self._read(response)
        async with session.get(f"/v1/jobs/{self.job_id}/result") as response:
            result = await response.json()
        assert result["choices"][0]["message"]["content"] == self.text, "the log and the result are one answer"
        self.usage = counts(result["usage"])

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {"):
                self._take(json.loads(line[6:]))

    def _take(self, chunk: dict[str, Any]) -> None:
        assert "error" not in chunk, chunk
        assert "token_ids" not in str(chunk.keys()), "nobody has asked for ids"
        for part in chunk["choices"]:
            assert part.keys() <= {"index", "delta", "logprobs", "finish_reason", "stop_reason"}, part
            self.text += part["delta"].get("content") or ""
            self.finish_reason = part["finish_reason"] or self.finish_reason
        if chunk.get("usage"):
            self.usage = counts(chunk["usage"])

    def assert_is(self, expected: Undisturbed) -> None:
        assert self.text == expected.content
        assert (self.finish_reason, self.usage) == (expected.finish_reason, expected.usage)


@pytest.fixture(params=["plain", "trimming"])
def server(request: pytest.FixtureRequest) -> Vllm:
    return request.getfixturevalue(request.param)


@asynccontextmanager
async def serving(cluster: Cluster, server: Vllm) -> AsyncGenerator[tuple[Api, TcpProxy]]:
    """An API, and a way to the engine that can be cut."""
    async with TcpProxy(server.port, server.host) as proxy:
        yield await cluster.api(), proxy


async def worker(cluster: Cluster, proxy: TcpProxy, model: str) -> RunningProcess:
    url = f"http://127.0.0.1:{proxy.port}/v1"
    options = ("--engine", "openai", "--engine-url", url, "--model", model, "--model-id", "simulated")
    return await cluster.worker(*options, "--retry-backoff", "0.1")


async def attempts_of(session: aiohttp.ClientSession, job_id: str) -> int:
    async with session.get(f"/v1/jobs/{job_id}") as response:
        return (await response.json())["attempts"]


async def cut_somewhere(reading: Reading, call: asyncio.Task[None], expected: Undisturbed, dice: random.Random) -> bool:
    """Waits for a place in the text that the dice choose. Whether the answer still runs then."""
    at = int(dice.random() * 0.6 * len(expected.content)) + 1
    await wait_until(lambda: call.done() or len(reading.text) >= at, f"character {at}", within=120)
    return not call.done()


@pytest.mark.parametrize("kind", ["stream", "job"])
async def test_connections_that_are_cut_do_not_change_an_answer(cluster: Cluster, server: Vllm, kind: str) -> None:
    dice, cuts, tries = random.Random(f"connections {kind}"), 0, 0
    async with serving(cluster, server) as (api, proxy), session_with(api.url) as session:
        await worker(cluster, proxy, server.model)
        while cuts < CUTS:
            tries += 1
            expected, reading = await undisturbed(server, dice), Reading()
            call = asyncio.create_task(getattr(reading, kind)(session, {**expected.body, "model": "simulated"}))
            if await cut_somewhere(reading, call, expected, dice):
                proxy.cut()
            await call
            reading.assert_is(expected)
            cuts += await attempts_of(session, reading.job_id) > 1
            assert tries < 4 * CUTS, "answers are over before they are cut"
    print(f"{kind}s whose connection was cut: {cuts}; over before that: {tries - cuts}")


@pytest.mark.parametrize("kind", ["stream", "job"])
async def test_workers_that_are_killed_do_not_change_an_answer(cluster: Cluster, server: Vllm, kind: str) -> None:
    dice, kills, tries = random.Random(f"workers {kind}"), 0, 0
    async with serving(cluster, server) as (api, proxy), session_with(api.url) as session:
        running = await worker(cluster, proxy, server.model)
        while kills < KILLS:
            tries += 1
            expected, reading = await undisturbed(server, dice), Reading()
            call = asyncio.create_task(getattr(reading, kind)(session, {**expected.body, "model": "simulated"}))
            if await cut_somewhere(reading, call, expected, dice):
                running.kill()
                running = await worker(cluster, proxy, server.model)
            await call
            reading.assert_is(expected)
            kills += await attempts_of(session, reading.job_id) > 1
            assert tries < 4 * KILLS, "answers are over before their worker is killed"
    print(f"{kind}s whose worker was killed: {kills}; over before that: {tries - kills}")
