"""`ignite dead` against a running cluster."""

from dataclasses import replace

import aiohttp

from tests.faults.test_poison import publish
from tests.support.chat import Gate, Prompt, content_of, ended, job_of, session_with, submit
from tests.support.cluster import Cluster
from tests.support.command import ignite
from tests.support.wait_until import wait_until

NONE = "There are no dead jobs. 'ignite jobs ls --status failed' lists all failed jobs."


async def test_a_job_that_killed_its_worker_is_listed_and_replayed(cluster: Cluster, gate: Gate) -> None:
    api, (victim,) = await cluster.with_workers(1)
    prompt = Prompt(seed=7, gate=replace(gate, silent=True))
    async with session_with(api.url) as session:
        job_id = await submit(session, prompt)
        await wait_until(lambda: is_running(session, job_id))
        victim.kill()
        await cluster.worker("--quarantine-after", "1")
        record = await ended(session, job_id)
        assert (record["status"], record["error"]["code"]) == ("failed", "attempts_exhausted")
        gate.open()

        heading, *rows = (await dead(api.url, "ls")).splitlines()
        assert heading.split()[0] == "ID"
        assert [row.split()[0] for row in rows] == [job_id]
        assert " local " in rows[0], "an operator sees whose it is"
        assert (await dead(api.url, "ls", "--model", "another")).splitlines() == [heading, NONE]

        assert (await dead(api.url, "replay", "--all")).split() in ([job_id, "queued"], [job_id, "in_progress"])

        record = await ended(session, job_id)
        assert (record["status"], record["error"]) == ("completed", None)
        assert await content_of(session, job_id) == prompt.text
    assert (await dead(api.url, "ls")).splitlines() == [heading, NONE]


async def test_undecodable_messages_are_listed_replayed_and_purged(cluster: Cluster, amqp_url: str) -> None:
    api = await cluster.api("--models", "simulated")
    worker = await cluster.worker()
    for number in range(3):
        await publish(amqp_url, {"x-job": f"garbage {number}"}, b"\xff")
    await wait_until(lambda: worker.output.count("delivery.undecodable") == 3)
    rows = await wait_until(lambda: messages(api.url, 3), "them to be listed")
    first, *others = [row.split()[0] for row in rows]
    assert all("ignite.jobs.simulated.default" in row and "JSONDecodeError" in row for row in rows)

    assert await dead(api.url, "replay", first) == f"{first}  put back into ignite.jobs.simulated.default\n"
    await wait_until(lambda: worker.output.count("delivery.undecodable") == 4, "it to be set aside again")
    assert await dead(api.url, "purge", others[0]) == f"{others[0]}  deleted\n"
    await wait_until(lambda: messages(api.url, 2))
    assert len((await dead(api.url, "purge", "--all")).splitlines()) == 2
    heading, *rest = (await dead(api.url, "ls")).splitlines()
    assert (heading.split()[0], rest) == ("ID", [NONE])
    assert await dead(api.url, "purge", first, status=1) == f"Error: No message '{first}'.\n"


async def messages(url: str, count: int) -> list[str]:
    lines = (await dead(url, "ls")).splitlines()
    rows = [line for line in lines if line.startswith("undecodable-")]
    assert len(rows) == count, lines
    return rows


async def test_replay_needs_ids_or_all(cluster: Cluster) -> None:
    api = await cluster.api()
    assert "give one or more IDs, or --all" in await dead(api.url, "replay", status=2)
    assert await dead(api.url, "replay", "chatcmpl-none", status=1) == "Error: No job 'chatcmpl-none'.\n"


async def is_running(session: aiohttp.ClientSession, job_id: str) -> bool:
    return (await job_of(session, job_id))["status"] == "in_progress"


async def dead(url: str, *arguments: str, status: int = 0) -> str:
    return (await ignite("dead", "--url", url, *arguments, status=status)).output
