"""`ignite up` as a user runs it: one process, no servers."""

import asyncio
import os
import resource
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support import gated
from tests.support.chat import Gate, Prompt, content_of, ended, reached, session_with, streaming, submit
from tests.support.run_process import RunningProcess, run_ignite

READY = r"ignite is ready: (http://\S+)/v1"


def ignite_up(data: Path, *options: str, **env: str) -> AbstractAsyncContextManager[RunningProcess]:
    arguments = ("up", "--port", "0", "--data-dir", str(data), "--engine", "simulated", *options)
    return run_ignite(*arguments, env=env, module=gated.MODULE)


@asynccontextmanager
async def ready(data: Path, *options: str) -> AsyncGenerator[tuple[RunningProcess, str]]:
    async with ignite_up(data, *options) as process:
        yield process, (await process.wait_for(READY))[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
async def test_a_stop_lets_the_open_stream_finish(tmp_path: Path, number: signal.Signals) -> None:
    async with ready(tmp_path) as (process, url):
        async with streaming(url, [Prompt(tokens=60, itl=20)]) as (stream,):
            await reached([stream], 5)
            os.killpg(process.pid, number)  # As a terminal does; a supervisor's signal comes to the same.
            await process.wait_for("api.draining")

        await process.expect_exit(0)

    stream.assert_whole()


async def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    async with ready(tmp_path) as (process, url), session_with(url) as session:
        await submit(session, Prompt(tokens=1000, itl=1000))
        process.interrupt()
        await process.wait_for("draining")
        process.interrupt()

        assert await process.wait() != 0


@pytest.fixture
def few_open_files() -> Generator[int]:
    """A low soft limit, as in a new shell; yields the hard limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_the_open_files_limit_is_raised(tmp_path: Path, few_open_files: int) -> None:
    async with ready(tmp_path) as (process, _):
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (few_open_files, few_open_files)


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
async def test_a_used_port_ends_it_with_one_sentence(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with ignite_up(tmp_path, option, str(port)) as process:
            output = await process.expect_exit(1)

    assert output.splitlines()[-1].startswith(f"ignite: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "env", "says"),
    [
        ([], {"IGNITE_AMQP_URL": "amqp://localhost"}, "IGNITE_REDIS_URL is not"),
        (["--engine", "openai"], {}, "needs the server's address"),
    ],
)
async def test_a_bad_setting_ends_it_with_one_sentence(
    tmp_path: Path, options: list[str], env: dict[str, str], says: str
) -> None:
    async with ignite_up(tmp_path, *options, **env) as process:
        output = await process.expect_exit(1)

    (sentence,) = output.splitlines()
    assert says in sentence


async def test_a_second_process_on_the_same_data_is_refused(tmp_path: Path) -> None:
    async with ready(tmp_path) as (first, _), ignite_up(tmp_path) as second:
        output = await second.expect_exit(1)

    (sentence,) = output.splitlines()
    assert f"in use by another Ignite (process {first.pid})" in sentence


async def test_jobs_of_a_killed_process_are_completed_by_the_next(tmp_path: Path, gate: Gate) -> None:
    prompts = [Prompt(seed=number * 10, tokens=60, gate=gate) for number in range(6)]
    async with ready(tmp_path, "--concurrency", "2") as (process, url), session_with(url) as session:
        jobs = [await submit(session, prompt) for prompt in prompts]
        for job in jobs[:2]:
            await wait_for_chunks(session, job)
        process.kill()
        await process.wait()

    gate.open()
    async with ready(tmp_path) as (_, url), session_with(url) as session:
        records = await asyncio.gather(*(ended(session, job) for job in jobs))
        contents = [await content_of(session, job) for job in jobs]

    assert [record["status"] for record in records] == ["completed"] * len(jobs)
    assert contents == [prompt.text for prompt in prompts]
    assert [record["attempts"] for record in records] == [2, 2, 1, 1, 1, 1], "two ran, the others waited"


async def wait_for_chunks(session: aiohttp.ClientSession, job_id: str) -> None:
    """Waits until the job has frames."""
    async with session.get(f"/v1/jobs/{job_id}/events") as events:
        async for line in events.content:
            if b" t0" in line:
                return
