"""The queue of jobs to run, and the deliveries that workers ack or requeue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from shared.job import Job, QueueName


@dataclass(frozen=True, slots=True)
class Message:
    """A job in a queue: its record as it was submitted, so that it can be restored in a store that has lost it.

    `body` is the client's request as it came, or None where only the store keeps it.
    """

    job: Job
    body: bytes | None
    traceparent: str | None = None


class Delivery(Protocol):
    """A message that a worker holds, until exactly one call of `ack` or `retry`.

    A call after the connection was lost is not an error: the broker delivers the message again, and the next claim
    reads the job's state.
    """

    @property
    def message(self) -> Message: ...

    @property
    def redelivered(self) -> bool:
        """Whether the message may have been delivered before: then `JobStore.turn` needs `sure`."""
        ...

    @property
    def served(self) -> str | None:
        """The job that was run under this delivery before its own, if any: see `JobStore.turn`."""
        ...

    async def wait_on(self, served: str) -> None:
        """The job `served` was run under this delivery, and its own waits on: `next` hands the delivery out again,
        before others of its queue. Of a paused queue it goes back.
        """
        ...

    async def ack(self) -> None:
        """Removes the message: the job has ended."""
        ...

    async def retry(self, after: float = 0.0) -> None:
        """Requeues the message for any worker, after `after` seconds; 0: at once."""
        ...


Choose = Callable[[Mapping[QueueName, int]], QueueName | None]
"""Told how many deliveries of each queue are at hand (those that have any, in the consumer's order), it names the queue
to take one from, or None to wait on.
"""


class Consumer(Protocol):
    async def next(self, choose: Choose | None = None) -> Delivery:
        """The next delivery, from the queue that `choose` names; without it, from the first of the consumer's queues
        that has one. `choose` is asked again whenever a delivery comes, and on `look_again`. Waits through reconnects.

        A cancelled call takes no delivery away.
        """
        ...

    def look_again(self) -> None:
        """Asks `choose` again: its answer may have changed."""
        ...

    async def pause(self, queues: Collection[QueueName] | None = None) -> None:
        """Take no more from `queues` (None: from any): what `next` has not handed out goes back to its queue at once,
        for others. Deliveries in hand stay, to be settled as usual. Pausing twice does nothing.
        """
        ...

    async def resume(self, queues: Collection[QueueName] | None = None) -> None:
        """Takes deliveries from paused queues again."""
        ...


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message that could not be decoded, as far as it can be read. `queue`: the name of the one that it came from;
    `at`: when it was set aside, in Unix seconds.
    """

    id: str
    queue: str
    at: float
    reason: str
    headers: Mapping[str, str]
    body: bytes


Fate = Literal["keep", "replay", "forget"]


class JobQueue(Protocol):
    """Pauses the work that is not done: the truth about what must still run."""

    async def publish(self, message: Message) -> None:
        """Return once the message is durable. Raises QueueFull when the queue's bound is reached.

        A message whose deadline passes in the queue is never delivered; it becomes a dead letter.
        """
        ...

    def consume(
        self, queues: Sequence[QueueName], prefetch: int | Sequence[int]
    ) -> AbstractAsyncContextManager[Consumer]:
        """Take deliveries, earlier queues first; at most `prefetch` of each queue unsettled at a time (a number for all
        of them, or one for each).

        On leaving, whatever is unsettled goes back to its queue.
        """
        ...

    def dead_letters(self) -> AbstractAsyncContextManager[Consumer]:
        """Take the dead letters, each of them to one consumer; `ack` forgets one for good."""
        ...

    async def undecodable(self, decide: Callable[[Undecodable], Fate], limit: int) -> Sequence[Undecodable]:
        """Look through the messages that nobody could decode, at most `limit` of them, and do with each what `decide`
        says: keep it, put it back into the queue it came from, or forget it. Those that were there.
        """
        ...
