"""The engine port: the interface between a worker and anything that generates.

An engine takes the client's own OpenAI request (a dict, already checked, our fields removed, `seed` set) and answers in
OpenAI's own shapes. It never sees jobs, queues or logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.ports import EngineState


class EngineRequest(dict[str, Any]):
    """A request as the worker passes it to an engine. `added`: the fields that the client did not send. Where a server
    refuses one of those, the request is sent again without it. `tier`: the job's, for an engine that schedules by it.
    """

    added: frozenset[str] = frozenset()
    tier: str = "default"


Request = dict[str, Any]
Chunk = dict[str, Any]
Completion = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the catalog shows of a served model. `context_length` is in tokens, None where unknown. `modalities` is what
    the model takes (`text`, `image`, `audio`, …), empty where unknown. `parent`: the id of the model that it adapts,
    where it is an adapter (LoRA). `aliases`: other names that the engine has for it.
    """

    id: str
    engine: str
    context_length: int | None = None
    description: str | None = None
    capabilities: tuple[str, ...] = field(default=("chat", "stream"))
    modalities: tuple[str, ...] = ()
    parent: str | None = None
    aliases: tuple[str, ...] = ()


class Engine(Protocol):
    """One running engine. A request's `model` is the id of one of its `cards`; without it the engine's main model
    answers.

    Errors: `EngineRefused` when the request itself is wrong (with the engine's own message, `code` and `param` where it
    gives them), `EngineError` for anything that another attempt may get past (crash, timeout, out of memory, overload).
    Nothing else leaves an engine, except cancellation.
    """

    @property
    def card(self) -> ModelCard:
        """The main model as the catalog lists it; valid once `start` has returned."""
        ...

    @property
    def cards(self) -> Sequence[ModelCard]:
        """Every model that it serves at present, the main one first."""
        ...

    async def cards_changed(self) -> None:
        """Returns when `cards` may have changed since the last call."""
        ...

    @property
    def state(self) -> EngineState | None:
        """What the engine's server last told of itself, or None."""
        ...

    @property
    def concurrency(self) -> int:
        """How many requests the engine works on at once: the worker's slots and its prefetch."""
        ...

    @property
    def continues_text(self) -> bool:
        """Whether `generate` honours `prefix`: continues a given assistant text without repeating it."""
        ...

    async def start(self) -> None:
        """Loads the model. Returns when the engine can generate. Raises EngineError with one clear sentence."""
        ...

    def continues_from(self, request: Request, prefix: str, progress: bytes) -> bool:
        """Whether `generate` continues this partial answer of plain text. Where it does not, the answer is replayed:
        generated again with the same seed, and compared with what was sent.
        """
        ...

    def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk, None]:
        """Streams the answer to `request` as OpenAI `chat.completion.chunk` dicts, as the engine makes them.

        Chunks always end with usage (`stream_options.include_usage` is set for the engine whatever the client asked).
        Closing the generator (`aclose`) or cancelling its reader aborts the engine's work within one step and frees its
        slot.
        With `prefix` (only where `continues_from` says so) generation continues that partial assistant text and the
        chunks have only what follows it; `max_tokens` and usage count the whole answer, prefix included.

        A chunk may have a field `progress`: bytes that the worker stores with the chunk's text. Joined, those of an
        attempt are what the next one gets as `progress`; an attempt that has any begins them anew.
        """
        ...

    async def complete(self, request: Request) -> Completion:
        """Returns the answer to `request` as one `chat.completion`. Cancelling the call aborts it within one step."""
        ...

    async def wait_unhealthy(self) -> str:
        """Returns a reason as soon as the engine cannot generate; waits while it can."""
        ...

    async def wait_healthy(self) -> None:
        """Returns as soon as the engine can generate (again)."""
        ...

    async def close(self) -> None:
        """Stops generating and frees all resources. Safe to call twice, and after a failed `start`."""
        ...


class OneModel:
    """The part of an engine that serves one model for ever, and has no server that tells of itself."""

    card: ModelCard
    state: EngineState | None = None

    @property
    def cards(self) -> Sequence[ModelCard]:
        return (self.card,)

    async def cards_changed(self) -> None:
        await asyncio.Event().wait()
