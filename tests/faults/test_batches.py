"""Processes die while a batch runs: each line is answered exactly once, and the counts never decrease."""

import asyncio
import random
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from tests.support.batches import assert_each_once, begun, jsonl, line, lines_of, over
from tests.support.cluster import Api, Cluster
from tests.support.s3 import BUCKET, CREDENTIALS, S3
from tests.support.wait_until import wait_until

LEASE = "2"


class Site:
    """API replicas that share their files, and workers."""

    def __init__(self, cluster: Cluster, files: Path | S3, *options: str) -> None:
        self._cluster = cluster
        self._options = (*where(files), "--batch-lease", LEASE, *options)

    async def api(self) -> Api:
        return await self._cluster.api(*self._options, **CREDENTIALS)


def where(files: Path | S3) -> tuple[str, ...]:
    if isinstance(files, Path):
        return "--files-dir", str(files)
    return "--files-url", f"s3://{BUCKET}/batches", "--files-endpoint", files.url


@asynccontextmanager
async def client_of(api: Api) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def runner_among(apis: Sequence[Api], batch: Batch) -> Api:
    """Returns the replica that took the batch last."""

    def find() -> Api | None:
        return next((api for api in apis if f'"{batch.id}"' in api.process.output), None)

    found = await wait_until(find, f"a replica to run {batch.id}")
    assert found is not None
    return found


async def reached(client: AsyncOpenAI, batch: Batch, lines: int) -> None:
    async def look() -> bool:
        counts = (await client.batches.retrieve(batch.id)).request_counts
        return counts is not None and counts.completed >= lines

    await wait_until(look, f"{lines} lines of {batch.id}", within=60)


async def assert_whole(client: AsyncOpenAI, batch: Batch, numbers: Sequence[int]) -> None:
    done = await over(client, batch)
    assert (done.status, done.error_file_id) == ("completed", None)
    assert_each_once(await lines_of(client, done.output_file_id), numbers)


@pytest.fixture(params=["directory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Path | S3:
    return tmp_path if request.param == "directory" else request.getfixturevalue("s3_server")


async def test_a_batch_survives_the_replica_that_runs_it_and_a_worker(cluster: Cluster, files: Path | S3) -> None:
    site, numbers = Site(cluster, files), range(1500)
    first, second, victim, _ = await asyncio.gather(site.api(), site.api(), cluster.worker(), cluster.worker())
    async with client_of(first) as client:
        batch = await begun(client, jsonl(map(line, numbers)))
        runner = await runner_among([first, second], batch)
        other = second if runner is first else first
    async with client_of(other) as client:
        await reached(client, batch, 100)
        victim.kill()
        runner.process.kill()
        await assert_whole(client, batch, numbers)


async def test_a_runner_that_was_stopped_and_resumed_writes_nothing_twice(cluster: Cluster, tmp_path: Path) -> None:
    site, numbers = Site(cluster, tmp_path), range(1500)
    first, second, _ = await asyncio.gather(site.api(), site.api(), cluster.worker())
    async with client_of(first) as client:
        batch = await begun(client, jsonl(map(line, numbers)))
        zombie = await runner_among([first, second], batch)
        other = second if zombie is first else first
    async with client_of(other) as client:
        await reached(client, batch, 100)
        zombie.process.send(signal.SIGSTOP)
        await other.process.wait_for("batch.taken")
        zombie.process.send(signal.SIGCONT)
        await zombie.process.wait_for("batch.overtaken")
        await assert_whole(client, batch, numbers)


async def test_the_lines_of_a_model_without_workers_run_when_a_worker_starts(cluster: Cluster, tmp_path: Path) -> None:
    site = Site(cluster, tmp_path, "--models", "late", "--batch-window", "50")
    first, second, _ = await asyncio.gather(site.api(), site.api(), cluster.worker())
    lines = [line(number, model="late" if number % 3 else "simulated") for number in range(1500)]
    async with client_of(first) as client:
        batch = await begun(client, jsonl(lines))
        runner = await runner_among([first, second], batch)
        other = second if runner is first else first
    async with client_of(other) as client:
        await reached(client, batch, 200)
        runner.process.kill()
        await reached(client, batch, 500)
        late = await cluster.worker("--model-id", "late")
        await reached(client, batch, 900)
        late.kill()
        await cluster.worker("--model-id", "late")
        await assert_whole(client, batch, range(1500))


@pytest.mark.long
async def test_ten_thousand_lines_while_processes_are_killed(cluster: Cluster, tmp_path: Path) -> None:
    site, numbers, dice = Site(cluster, tmp_path), range(10_000), random.Random(7)
    apis = [await site.api() for _ in range(2)]
    workers = [await cluster.worker() for _ in range(2)]
    async with client_of(apis[0]) as client:
        batch = await begun(client, jsonl(map(line, numbers)))
    for step in range(1, 9):
        async with client_of(apis[0]) as client:
            await reached(client, batch, step * 1000)
        if step % 2:
            apis.pop(dice.randrange(2)).process.kill()
            apis.append(await site.api())
        else:
            workers.pop(dice.randrange(2)).kill()
            workers.append(await cluster.worker())
    async with client_of(apis[0]) as client:
        await assert_whole(client, batch, numbers)
