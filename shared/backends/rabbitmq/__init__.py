"""The job queue on RabbitMQ; its driver is imported in this package only.

Topology, all durable, all quorum queues:

    ignite.jobs (direct) ──▶ ignite.jobs.<model>.<tier> ──expired, rejected, undeliverable──▶ ignite.dead (fanout)
    ignite.retry.<ms> (fanout) ──▶ ignite.retry.<ms> ──after <ms>, by its own routing key──▶ ignite.jobs

Connections are the driver's plain ones, not its robust ones: after a loss, the user of a connection connects again and
repeats all declarations. A robust connection may come back without its consumer.
"""

from shared.backends.rabbitmq.queue import RabbitQueue

__all__ = ["RabbitQueue"]
