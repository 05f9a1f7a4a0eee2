"""Many flex jobs and calls of higher tiers, with separate processes."""

import asyncio

from tests.support.chat import Gate, Prompt, session_with, streaming
from tests.support.cluster import Cluster
from tests.support.load import answered
from tests.support.wait_until import wait_until


async def test_flex_streams_are_put_back_and_lose_no_byte(cluster: Cluster, gate: Gate) -> None:
    flood = [Prompt(seed=number * 31, tokens=60, gate=gate) for number in range(12)]
    api, (worker,) = await cluster.with_workers(1, "--concurrency", "4", "--reserved-slots", "0.25")

    async with (
        streaming(api.url, flood, service_tier="flex") as streams,
        session_with(api.url) as session,
        asyncio.TaskGroup() as calls,
    ):
        await wait_until(
            lambda: sum(len(stream.frames) >= 5 for stream in streams) == 3, "flex to have its three slots"
        )
        urgent = [calls.create_task(answered(session, Prompt(seed=7, tokens=5))) for _ in range(4)]
        await asyncio.gather(*urgent)
        gate.open()

    assert "job.put_back" in worker.output
    for stream in streams:
        stream.assert_whole()
    assert [call.result()["choices"][0]["message"]["content"] for call in urgent] == [Prompt(seed=7, tokens=5).text] * 4
