"""The interface of the registry: which workers live, and which models they serve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as workers announce it. `seen_at`: when a worker last announced it; `aliases`: other names that requests
    may use; `modalities`: accepted inputs (`text`, `image`, `audio`, …), empty if the engine does not report them;
    `parent`: the id of the model that it adapts, if it is an adapter (LoRA).
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
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class EngineState:
    """The last metrics of the engine's server, None if it does not report them. `running` and `waiting`: its requests;
    `kv_cache_usage`: from 0 to 1; `prefix_cache_queries` and `prefix_cache_hits`: in tokens, since its start, as
    `preemptions`; `restarts`: of its process by the worker; `start_seconds`: until it could generate.
    """

    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    prefix_cache_queries: int | None = None
    prefix_cache_hits: int | None = None
    preemptions: int | None = None
    restarts: int | None = None
    start_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as it announces itself. `model`: its main model; `further_models`: the others that its engine serves
    with the same slots. `ready`: whether its engine can generate; `running`: how many jobs it ran at its last
    announcement; `version`: its version of Ignite; `engine_state`: None if the engine does not report it.
    """

    id: str
    model: ModelInfo
    concurrency: int
    started_at: float
    ready: bool = True
    running: int = 0
    version: str = ""
    further_models: tuple[ModelInfo, ...] = ()
    engine_state: EngineState | None = None

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        return (self.model, *self.further_models)

    def serves(self, model_id: str) -> bool:
        return any(model.id == model_id for model in self.models)

    def serving(self, models: Sequence[ModelInfo]) -> WorkerInfo:
        """The worker with other models, at least one."""
        return replace(self, model=models[0], further_models=tuple(models[1:]))


class Membership(Protocol):
    @property
    def cancels(self) -> AsyncIterator[str]:
        """The ids of jobs that the worker must stop.

        A request may be lost. The worker then learns of the cancellation when an append or a lease renewal is refused.
        """
        ...

    def announce(self, *, ready: bool | None = None, models: Sequence[ModelInfo] = ()) -> None:
        """Announces whether the worker's engine can generate, or which models it serves from now on; the other stays as
        it was. Returns before other processes have received it.
        """
        ...


def idle() -> int:
    return 0


def unknown() -> None:
    return None


class Registry(Protocol):
    """Lists the living workers and their models, and delivers stop requests to workers."""

    def join(
        self,
        worker: WorkerInfo,
        running: Callable[[], int] = idle,
        engine_state: Callable[[], EngineState | None] = unknown,
    ) -> AbstractAsyncContextManager[Membership]:
        """Registers the worker while inside. For each announcement `running` returns its number of running jobs, and
        `engine_state` the state of its engine.
        """
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
