"""The queue of jobs to run, and the deliveries that workers ack or requeue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from shared.job import Job, QueueName


@dataclass(frozen=True, slots=True)
class Message:
    """A job in a queue, with its record as it was submitted: the store is restored from it after a loss.

    `body`: the client's request as it was received, or None if only the store keeps it.
    """

    job: Job
    body: bytes | None
    traceparent: str | None = None


class Delivery(Protocol):
    """A message that a worker holds until it calls either `ack` or `retry`.

    A call after the connection was lost is not an error: the broker delivers the message again, and the next claim
    reads the job's state.
    """

    @property
    def message(self) -> Message: ...

    @property
    def redelivered(self) -> bool:
        """Whether the message may have been delivered before. If so, call `FairScheduler.next_job` with `fresh`."""
        ...

    @property
    def served(self) -> str | None:
        """The id of the other job that last ran under this delivery, if any: see `FairScheduler.next_job`."""
        ...

    async def deliver_again(self, served: str) -> None:
        """Makes `next` return this delivery again, before others of its queue, because another job (`served`) ran under
        it and its own job still waits. If the queue is paused, the message is requeued.
        """
        ...

    async def ack(self) -> None:
        """Removes the message, because the job has ended."""
        ...

    async def retry(self, after: float = 0.0) -> None:
        """Requeues the message for any worker, in `after` seconds; 0: at once."""
        ...


Choose = Callable[[Mapping[QueueName, int]], QueueName | None]
"""Chooses the queue to take a delivery from, or None to wait. The argument has the number of available deliveries by
queue, in the consumer's order, without empty queues.
"""


class Consumer(Protocol):
    async def next(self, choose: Choose | None = None) -> Delivery:
        """Returns the next delivery from the queue that `choose` names; without `choose`, from the first queue that has
        one. `choose` is called again whenever a delivery arrives, and on `choose_again`. Waits while the connection is
        lost.

        A cancelled call loses no delivery.
        """
        ...

    def add(self, prefetch: Mapping[QueueName, int]) -> None:
        """Consumes further queues as soon as the broker allows it. `prefetch`: most unacknowledged deliveries of each.
        Queues that are consumed already do not change.
        """
        ...

    def choose_again(self) -> None:
        """Calls `choose` again, because its answer may have changed."""
        ...

    async def pause(self, queues: Collection[QueueName] | None = None) -> None:
        """Stops taking deliveries from `queues` (None: all). Deliveries that `next` has not returned yet are requeued
        at once, for other consumers; the others are not affected. A repeated pause does nothing.
        """
        ...

    async def resume(self, queues: Collection[QueueName] | None = None) -> None:
        """Takes deliveries from paused queues again."""
        ...


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message that could not be decoded. `queue`: the name of the queue it came from; `at`: when it was set aside, in
    Unix seconds.
    """

    id: str
    queue: str
    at: float
    reason: str
    headers: Mapping[str, str]
    body: bytes


Fate = Literal["keep", "replay", "forget"]


class JobQueue(Protocol):
    """Queues of jobs that must still run, one per model and tier."""

    async def publish(self, message: Message) -> None:
        """Publishes, and returns once the message is durable. Raises QueueFull when the queue's bound is reached.

        A message whose deadline passes in the queue is not delivered; it becomes a dead letter.
        """
        ...

    def consume(
        self, queues: Sequence[QueueName], prefetch: int | Sequence[int]
    ) -> AbstractAsyncContextManager[Consumer]:
        """Consumes `queues`, earlier queues first. `prefetch`: most unacknowledged deliveries of each queue, one number
        for all queues or one for each.

        On exit, unacknowledged deliveries are requeued.
        """
        ...

    def dead_letters(self) -> AbstractAsyncContextManager[Consumer]:
        """Consumes the dead letters. Each goes to one consumer; `ack` removes it."""
        ...

    async def undecodable(self, decide: Callable[[Undecodable], Fate], limit: int) -> Sequence[Undecodable]:
        """Reviews at most `limit` messages that could not be decoded, and returns them. `decide` chooses for each: keep
        it, replay it (publish it to the queue it came from), or forget it.
        """
        ...
