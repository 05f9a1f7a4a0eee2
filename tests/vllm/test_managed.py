"""A vLLM that the worker starts itself, with `--engine vllm`: it is killed in mid-stream, and its streams go on."""

import asyncio
import os
import random
import signal
from pathlib import Path

from tests.support.chat import session_with
from tests.support.cluster import Cluster
from tests.support.run_process import RunningProcess
from tests.support.serving_processes import serving_processes
from tests.vllm.server import ARGUMENTS, STARTS_WITHIN, TOOLS, Vllm, environment
from tests.vllm.test_takeover import Reading, attempts_of, counts, cut_somewhere, undisturbed

KILLS = 2
"""In mid-stream. A restart takes a minute."""


async def start(cluster: Cluster, model: Path) -> RunningProcess:
    options = ("--engine", "vllm", "--model", str(model), "--model-id", "simulated", "--retry-backoff", "0.1")
    return await cluster.worker(*options, "--engine-args", " ".join((*ARGUMENTS, *TOOLS)), **environment())


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


async def test_streams_survive_their_vllm(cluster: Cluster, models: Path, trimming: Vllm) -> None:
    """vLLM's API process is killed with -9. The worker starts it again, and each answer is the undisturbed one."""
    dice, kills, survived = random.Random("kills of vLLM"), 0, 0
    api, worker = await asyncio.gather(cluster.api(), start(cluster, models / "trimming"))
    async with session_with(api.url) as session:
        while survived < KILLS:
            expected, reading = await undisturbed(trimming, dice), Reading()
            kind = reading.job if survived % 2 else reading.stream
            restarted = f"(?s)(engine.process_restarted.*){{{kills}}}"
            await worker.wait_for(restarted, STARTS_WITHIN)
            ((_, vllm),) = serving_processes(worker.pid)
            call = asyncio.create_task(kind(session, {**expected.body, "model": "simulated"}))
            if await cut_somewhere(reading, call, expected, dice):
                os.kill(vllm, signal.SIGKILL)
                kills += 1
            await call
            reading.assert_is(expected)
            survived += await attempts_of(session, reading.job_id) > 1
            assert kills < 3 * KILLS, "answers are over before vLLM is killed"
    print(f"killed: {kills}; in mid-stream: {survived}")


async def test_the_managed_engine_answers_as_vllm_does_and_schedules_by_priority(
    cluster: Cluster, models: Path, plain: Vllm
) -> None:
    api, worker = await asyncio.gather(cluster.api(), start(cluster, models / "plain"))
    ((_, vllm),) = serving_processes(worker.pid)
    assert "--scheduling-policy priority" in command_of(vllm)
    async with session_with(api.url) as session:
        for tier in ("default", "flex", "priority"):
            body = {"messages": [{"role": "user", "content": "the fox"}], "max_tokens": 40, "temperature": 0}
            expected = await plain.answer(body)
            asked = {**body, "model": "simulated", "service_tier": tier}
            async with session.post("/v1/chat/completions", json=asked) as response:
                assert response.status == 200, await response.text()
                found = await response.json()
            assert found["choices"][0]["message"]["content"] == expected["choices"][0]["message"]["content"]
            assert counts(found["usage"]) == counts(expected["usage"])
    assert "engine.dialect" not in worker.output, "no priority was refused"
