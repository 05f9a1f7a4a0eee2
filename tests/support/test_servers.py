"""The private servers behave as the tests assume."""

import aio_pika
from pamqp.common import Arguments

from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.wait_until import wait_until

QUORUM: Arguments = {"x-queue-type": "quorum"}


async def test_a_queue_is_counted_while_its_messages_wait_and_while_they_are_held(
    rabbitmq_server: RabbitMQ, vhost: str, amqp_url: str
) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("jobs", durable=True, arguments=QUORUM)
        await channel.default_exchange.publish(aio_pika.Message(b"one"), "jobs")

        def counted() -> list[tuple[int | None, int | None]]:
            return [(each.messages_ready, each.messages_unacknowledged) for each in rabbitmq_server.queues(vhost)]

        await wait_until(lambda: counted() == [(1, 0)], "one message ready", seen=counted)
        held = await queue.get()
        await wait_until(lambda: counted() == [(0, 1)], "one message unacknowledged", seen=counted)
        await held.ack()
        await wait_until(lambda: counted() == [(0, 0)], "an empty queue", seen=counted)


async def test_each_test_has_a_virtual_host_of_its_own(rabbitmq_server: RabbitMQ, vhost: str) -> None:
    assert rabbitmq_server.queues(vhost) == []


async def test_connections_are_closed_from_the_brokers_side(
    rabbitmq_server: RabbitMQ, vhost: str, amqp_url: str
) -> None:
    connection = await aio_pika.connect(amqp_url)
    await wait_until(lambda: rabbitmq_server.connections(vhost), "the connection to be listed")

    assert rabbitmq_server.close_connections(vhost) == 1
    await wait_until(lambda: not rabbitmq_server.connections(vhost), "the connection to be gone")
    await connection.close()


async def test_redis_commands_are_seen_and_lasting_keys_found(redis_server: Redis, redis_database: int) -> None:
    with redis_server.client(redis_database) as client:
        client.ping()
        async with redis_server.monitor() as commands:
            client.set("lasts", 1)
            client.set("passes", 1, ex=60)
            client.eval("return redis.call('GET', KEYS[1])", 1, "lasts")

    assert [each.name for each in commands if not each.by_script] == ["SET", "SET", "EVAL"]
    assert [each.name for each in commands if each.by_script] == ["GET"]
    assert redis_server.keys_without_expiry(redis_database) == ["lasts"]


async def test_redis_keeps_what_it_said_it_had_when_killed(redis_server: Redis, redis_database: int) -> None:
    with redis_server.client(redis_database) as client:
        client.set("key", "kept")
    await redis_server.kill()
    await redis_server.start()
    with redis_server.client(redis_database) as client:
        assert client.get("key") == "kept"
