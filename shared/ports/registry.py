"""The interface of the registry: which workers live, and which models they serve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as workers announce it. `seen_at`: when a worker last announced it; `aliases`: other names that requests
    may use; `modalities`: accepted inputs (`text`, `image`, `audio`, …), empty if the engine does not report them.
    """

    id: str
    engine: str
    created_at: float
    seen_at: float
    context_length: int | None = None
    description: str | None = None
    capabilities: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as it announces itself. `ready`: whether its engine can generate; `running`: how many jobs it ran at its
    last announcement; `version`: its version of Ignite.
    """

    id: str
    model: ModelInfo
    concurrency: int
    started_at: float
    ready: bool = True
    running: int = 0
    version: str = ""


class Membership(Protocol):
    @property
    def cancels(self) -> AsyncIterator[str]:
        """The ids of jobs that the worker must stop.

        A request may be lost. The worker then learns of the cancellation when an append or a lease renewal is refused.
        """
        ...

    def announce(self, *, ready: bool) -> None:
        """Announces whether the worker's engine can generate. Returns before other processes have received it."""
        ...


def idle() -> int:
    return 0


class Registry(Protocol):
    """Lists the living workers and their models, and delivers stop requests to workers."""

    def join(self, worker: WorkerInfo, running: Callable[[], int] = idle) -> AbstractAsyncContextManager[Membership]:
        """Registers the worker while inside. `running` returns its number of running jobs for each announcement."""
        ...

    async def alive(self, worker_id: str) -> bool:
        """Whether the worker's process lives. Decided by its connection, not by the age of its last heartbeat."""
        ...

    async def workers(self) -> Sequence[WorkerInfo]:
        """Returns the living workers."""
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """Returns every model that a worker announced lately, including models without a living worker."""
        ...
