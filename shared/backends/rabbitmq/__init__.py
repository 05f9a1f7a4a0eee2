"""The job queue on RabbitMQ; its driver is imported in this package only.

Topology, all durable, all quorum queues:

    ignite.jobs (direct) ──▶ ignite.jobs.<model>.<tier> ──expired, rejected, undeliverable──▶ ignite.dead (fanout)
    ignite.retry.<ms> (fanout) ──▶ ignite.retry.<ms> ──after so long, by its own routing key──▶ ignite.jobs

Connections are plain ones: when one breaks, whoever uses it connects again and declares everything again. A connection
that comes back by itself without its consumer is a trap.
"""

from shared.backends.rabbitmq.queue import RabbitQueue

__all__ = ["RabbitQueue"]
