"""`--processes`: several API processes on one socket, and several workers, each group with one parent."""

import os
import re
import signal
from pathlib import Path

from tests.support.chat import Prompt, session_with, streaming
from tests.support.cluster import Cluster
from tests.support.run_process import RunningProcess, run_ignite
from tests.support.wait_until import wait_until


def children(process: RunningProcess) -> set[int]:
    """Returns the child processes, without zombies."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == process.pid and state != "Z":
            found.add(int(entry.parent.name))
    return found


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_children_share_the_work_are_replaced_and_end_with_their_parent(cluster: Cluster) -> None:
    api, worker = await cluster.api("--processes", "2"), await cluster.worker("--processes", "2")
    for process in (api.process, worker):
        await wait_until(lambda p=process: len(re.findall("is ready", p.output)) == 2, "both children to be ready")
        assert len(children(process)) == 2

    victims = [next(iter(children(process))) for process in (api.process, worker)]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    for process in (api.process, worker):
        await wait_until(lambda p=process: len(re.findall("is ready", p.output)) == 3, "another child to be ready")
        assert len(children(process)) == 2

    prompts = [Prompt(seed=number, tokens=10) for number in range(20)]
    async with streaming(api.url, prompts) as streams:
        pass
    for stream in streams:
        stream.assert_whole()

    for process in (api.process, worker):
        family = children(process)
        assert await process.stop() == 0, process.output
        assert not any(map(is_there, family))


async def test_children_of_a_killed_parent_end(cluster: Cluster) -> None:
    worker = await cluster.worker("--processes", "2", "--drain", "0")
    await wait_until(lambda: len(re.findall("is ready", worker.output)) == 2, "both children to be ready")
    orphans = children(worker)

    worker.kill()

    await wait_until(lambda: not any(map(is_there, orphans)), "the children to end")


async def test_an_error_at_the_start_of_one_child_ends_all(cluster: Cluster) -> None:
    api = await cluster.api()
    port = api.url.rpartition(":")[2]
    urls = {"IGNITE_AMQP_URL": "amqp://127.0.0.1:1/", "IGNITE_REDIS_URL": "redis://127.0.0.1:1/0"}

    async with run_ignite("api", "--processes", "2", "--port", port, env=urls) as taken:
        assert "in use" in await taken.expect_exit(1)
    async with run_ignite("api", "--processes", "2", "--port", "0", env=urls) as lonely:
        assert "Redis" in await lonely.expect_exit(1)
    async with run_ignite("worker", "--processes", "2", env=urls) as refused:
        assert "processes is 2" in await refused.expect_exit(1)
    async with session_with(api.url) as session, session.get("/healthz") as answer:
        assert answer.status == 200
