"""The interface of a backend: all ports together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from shared.errors import IgniteError
from shared.job import Job, QueueName
from shared.ports.documents import Documents
from shared.ports.limiter import Limiter
from shared.ports.log import JobLog
from shared.ports.outbox import Outbox
from shared.ports.queue import JobQueue
from shared.ports.registry import Registry
from shared.ports.scheduler import FairScheduler
from shared.ports.store import JobStore


class Backend(Protocol):
    """Queue, log, store, scheduler, documents, outbox, limiter and registry."""

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> JobQueue: ...
    @property
    def log(self) -> JobLog: ...
    @property
    def store(self) -> JobStore: ...
    @property
    def scheduler(self) -> FairScheduler: ...
    @property
    def documents(self) -> Documents: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def limiter(self) -> Limiter: ...
    @property
    def registry(self) -> Registry: ...

    async def orphans(self, queue: QueueName, waited: float) -> Sequence[Job]:
        """Returns jobs of `queue` that have waited for more than `waited` seconds and have neither a message nor a
        living worker. The broker has lost the message, or a process died between two steps.

        The answer is an estimate. A second message for a job that is no orphan is harmless.
        """
        ...

    async def warnings(self, longest_job: float) -> Sequence[str]:
        """Returns one sentence for each setting of the servers that an operator should change before jobs of up to
        `longest_job` seconds are run.
        """
        ...

    async def check(self) -> Mapping[str, IgniteError | None]:
        """Returns the error of each part by name, or None for a part that answers."""
        ...

    async def close(self) -> None: ...
