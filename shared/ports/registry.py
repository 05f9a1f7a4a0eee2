"""Who works, on what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as workers announce it. `seen_at`: when a worker last did; `aliases`: other names that requests may call
    it by; `modalities`: what it takes (`text`, `image`, `audio`, …), empty where the engine does not tell.
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
    """`ready`: whether its engine can generate at present. `running`: jobs that it runs, as it last said; `version`: of
    its Ignite.
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
        """The ids of jobs that the worker is asked to stop.

        Requests may get lost: the log and the lease refuse a cancelled job as well.
        """
        ...

    def announce(self, *, ready: bool) -> None:
        """Tell everybody whether the worker's engine can generate. Does not wait for them to hear it."""
        ...


def idle() -> int:
    return 0


class Registry(Protocol):
    """Who works, on what; and the way to a worker's ear."""

    def join(self, worker: WorkerInfo, running: Callable[[], int] = idle) -> AbstractAsyncContextManager[Membership]:
        """Announce a worker while inside. `running` tells how many jobs it runs, whenever it is announced again."""
        ...

    async def alive(self, worker_id: str) -> bool:
        """Whether the worker's process is there, by its connection and not by a clock."""
        ...

    async def workers(self) -> Sequence[WorkerInfo]:
        """The workers that are there now."""
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """Every model that a worker announced lately, whether or not one is there now."""
        ...
