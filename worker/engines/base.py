"""The engine port: what a worker may expect of anything that generates.

An engine takes the client's own OpenAI request (a dict, already checked, our fields removed, `seed` set) and answers in
OpenAI's own shapes. It never sees jobs, queues or logs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol


class EngineRequest(dict[str, Any]):
    """A request as the worker hands it to an engine. `added` are the fields that the client did not send: a server that
    refuses one of those is asked again without it.
    """

    added: frozenset[str] = frozenset()


Request = dict[str, Any]
Chunk = dict[str, Any]
Completion = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the catalog shows of a served model. `context_length` is in tokens, None where the engine does not tell;
    `modalities` is what the model takes (`text`, `image`, `audio`, …), empty where the engine does not tell.
    """

    id: str
    engine: str
    context_length: int | None = None
    description: str | None = None
    capabilities: tuple[str, ...] = field(default=("chat", "stream"))
    modalities: tuple[str, ...] = ()


class Engine(Protocol):
    """One running engine serving one model.

    Errors: `EngineRefused` when the request itself is wrong (with the engine's own message, `code` and `param` where it
    gives them), `EngineError` for anything that another attempt may get past (crash, timeout, out of memory, overload).
    Nothing else leaves an engine, except cancellation.
    """

    @property
    def card(self) -> ModelCard:
        """The model as the catalog lists it; valid once `start` has returned."""
        ...

    @property
    def concurrency(self) -> int:
        """How many requests the engine works on at once: the worker's slots and its prefetch."""
        ...

    @property
    def continues_text(self) -> bool:
        """Whether `generate` honours `prefix`: goes on after a given assistant text without repeating it."""
        ...

    async def start(self) -> None:
        """Load the model; returns when the engine can generate. Raises EngineError with one clear sentence."""
        ...

    def generate(self, request: Request, prefix: str = "") -> AsyncGenerator[Chunk, None]:
        """Stream `request` as OpenAI `chat.completion.chunk` dicts, as the engine makes them.

        Chunks always end with usage (`stream_options.include_usage` is set for the engine whatever the client asked).
        Closing the generator (`aclose`) or cancelling its reader aborts the engine's work within one step and frees its
        slot.
        With `prefix` (only where `continues_text`) generation goes on after that partial assistant text and the chunks
        carry only what follows it; `max_tokens` and usage speak of the whole answer, prefix included.
        """
        ...

    async def complete(self, request: Request) -> Completion:
        """Answer `request` as one `chat.completion`. Cancelling the call aborts the work within one step."""
        ...

    async def wait_unhealthy(self) -> str:
        """Return, with a reason, when the engine stops being able to generate; never returns while it is well."""
        ...

    async def wait_healthy(self) -> None:
        """Return as soon as the engine can generate (again)."""
        ...

    async def close(self) -> None:
        """Stop generating and free everything. Safe to call twice, and after a failed `start`."""
        ...
