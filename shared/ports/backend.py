"""All ports, in one set."""

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
from shared.ports.store import JobStore


class Backend(Protocol):
    """Queue, log, store, documents, outbox, limiter and registry: one set."""

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> JobQueue: ...
    @property
    def log(self) -> JobLog: ...
    @property
    def store(self) -> JobStore: ...
    @property
    def documents(self) -> Documents: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def limiter(self) -> Limiter: ...
    @property
    def registry(self) -> Registry: ...

    async def orphans(self, queue: QueueName, waited: float) -> Sequence[Job]:
        """Jobs of `queue` that have waited for more than `waited` seconds, and for which neither a message nor a living
        worker stands, as far as can be told: what a broker lost, or a process that died between two steps.

        A job that is named here by mistake takes no harm from one message more.
        """
        ...

    async def warnings(self, longest_job: float) -> Sequence[str]:
        """What an operator should mend before jobs of `longest_job` seconds are run, a sentence each."""
        ...

    async def check(self) -> Mapping[str, IgniteError | None]:
        """Each part's name with None if it answers, else with what is wrong."""
        ...

    async def close(self) -> None: ...
