"""The llama.cpp process is killed during streams: the API and the streams continue."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.support.chat import content_of, job_of, session_with
from tests.support.run_process import run_ignite
from tests.support.serving_processes import gone, serving_processes
from tests.support.wait_until import wait_until

READY = r"ignite is ready: (http://\S+)/v1"
TOKENS = 1500


class DemoStream:
    """A stream of a long answer of the demo model."""

    def __init__(self, seed: int) -> None:
        self.job_id = ""
        self.texts: list[str] = []
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.done = False
        self._body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "Tell me a story"}],
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def read(self, session: aiohttp.ClientSession) -> None:
        async with session.post("/v1/chat/completions", json=self._body) as response:
            assert response.status == 200
            self.job_id = response.headers["x-job-id"]
            async for line in response.content:
                if line.startswith(b"data: "):
                    self._note(line.removeprefix(b"data: ").strip())

    def _note(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        chunk = orjson.loads(data)
        assert "error" not in chunk, chunk
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self.texts.append(choice["delta"].get("content") or "")
            self.finish_reason = choice["finish_reason"] or self.finish_reason


async def test_streams_continue_with_the_next_process(tmp_path: Path) -> None:
    options = ("--port", "0", "--data-dir", str(tmp_path), "--retry-backoff", "0.1")
    streams = [DemoStream(seed) for seed in range(4)]
    async with run_ignite("up", *options) as process:
        url = (await process.wait_for(READY))[1]
        async with session_with(url) as session:
            async with asyncio.TaskGroup() as calls:
                for stream in streams:
                    calls.create_task(stream.read(session))
                await wait_until(lambda: all(len(stream.texts) > 20 for stream in streams), "all to have begun")
                [(guardian, native)] = serving_processes(process.pid)
                os.kill(native, signal.SIGKILL)
                await process.wait_for("engine.process_ended")
                async with session.get("/readyz") as response:
                    assert response.status == 200
                await process.wait_for("engine.process_restarted")

            attempts = [(await job_of(session, stream.job_id))["attempts"] for stream in streams]
            results = [await content_of(session, stream.job_id) for stream in streams]
        [processes] = serving_processes(process.pid)
        await process.stop()

    assert attempts == [2] * len(streams)
    assert [(stream.done, stream.finish_reason) for stream in streams] == [(True, "length")] * len(streams)
    assert ["".join(stream.texts) for stream in streams] == results
    assert [stream.usage["completion_tokens"] for stream in streams] == [TOKENS] * len(streams)
    await gone(guardian, *processes)
