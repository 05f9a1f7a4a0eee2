"""An API and two workers on a Redis Cluster."""

from tests.support.chat import Prompt, content_of, ended, job_of, reached, session_with, streaming, submit
from tests.support.cluster import all_settled, running_cluster
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis_cluster import RedisCluster
from tests.support.wait_until import wait_until

PROMPTS = [Prompt(seed=number * 7, tokens=20 + number % 30, itl=number % 5) for number in range(60)]
RUNNING = Prompt(tokens=5000, itl=20)


async def test_streams_and_jobs_on_a_cluster(
    redis_cluster: RedisCluster, amqp_url: str, rabbitmq_server: RabbitMQ, vhost: str
) -> None:
    """`redis_url` names one node; the others store data too."""
    async with running_cluster(amqp_url, redis_cluster.nodes[0].url()) as cluster:
        api, _ = await cluster.with_workers(2)
        async with streaming(api.url, [*PROMPTS, RUNNING]) as streams, session_with(api.url) as session:
            job = await submit(session, PROMPTS[0])
            await reached(streams[-1:], 5)
            async with session.post(f"/v1/jobs/{streams[-1].job_id}/cancel"):
                pass
            assert (await ended(session, streams[-1].job_id))["status"] == "cancelled"
            assert (await ended(session, job))["status"] == "completed"
            assert await content_of(session, job) == PROMPTS[0].text
            assert (await job_of(session, job))["attempts"] == 1
            async with session.get("/v1/jobs/}of-no-slot/events") as answer:
                assert answer.status == 404
        for stream in streams[:-1]:
            stream.assert_whole()
        assert len(streams[-1].frames) < RUNNING.tokens
        assert all(node.ask("DBSIZE") for node in redis_cluster.nodes)
        await wait_until(lambda: all_settled(rabbitmq_server, vhost), "every message to be settled")
        assert redis_cluster.keys_without_expiry() == []
