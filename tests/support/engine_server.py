"""An OpenAI-compatible server around the simulated engine, for workers with a managed engine process. If the last
message says `poison`, the server kills the worker that started it, like a request that crashes a driver or uses all
memory. If it says `gate=PATH`, the answer begins when that file exists.
"""

import argparse
import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from shared.frames import DONE, frame
from tests.support.run_process import RunningProcess, run_process
from tests.support.server import free_ports
from tests.support.wait_until import wait_until
from worker.engines.simulated import SimulatedEngine

ROOT = Path(__file__).parents[2]
COMMAND = shlex.join(["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.support.engine_server"]) + " {port}"
MANAGED = ("--engine", "vllm", "--model", "simulated", "--engine-command", COMMAND)
"""Returns the options of a worker that runs such a server as its engine."""

ENGINE = SimulatedEngine()


@asynccontextmanager
async def engine_server() -> AsyncGenerator[tuple[RunningProcess, str]]:
    """Starts a server without a worker, and yields its address."""
    (port,) = free_ports(1)
    async with run_process(*shlex.split(COMMAND.format(port=port)), ready="listening on") as process:
        yield process, f"http://127.0.0.1:{port}/v1"


async def models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "simulated"}]})


async def complete(request: web.Request) -> web.StreamResponse:
    asked: dict[str, Any] = await request.json()
    if "poison" in asked["messages"][-1]["content"]:
        kill_worker()
    if gate := re.search(r"gate=(\S+)", asked["messages"][-1]["content"]):
        await wait_until(Path(gate[1]).exists, f"the gate {gate[1]}", within=600)
    if not asked.get("stream"):
        return web.json_response(await ENGINE.complete(asked))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for chunk in ENGINE.generate(asked):
        await response.write(frame(chunk))
    await response.write(DONE)
    return response


def kill_worker() -> None:
    """Kills the worker: the parent of this process is the guardian, and the guardian's parent is the worker."""
    guardian = Path(f"/proc/{os.getppid()}/stat").read_text()
    os.kill(int(guardian.rpartition(")")[2].split()[1]), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", complete)
    asyncio.run(serve(app, parser.parse_args().port))


async def serve(app: web.Application, port: int) -> None:
    await ENGINE.start()
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"listening on {port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
