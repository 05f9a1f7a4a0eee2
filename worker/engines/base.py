"""The engine port: the interface between a worker and an engine.

An engine gets the client's OpenAI request (a dict, checked, without Ignite's own fields, with `seed`) and answers with
OpenAI's chunks or completion. It does not know jobs, queues or logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.job import Api
from shared.ports import EngineState


class EngineRequest(dict[str, Any]):
    """A request as the worker passes it to an engine. `added`: the fields that the client did not send. If a server
    refuses one of them, the request is sent again without it. `tier`: the job's tier, for engines that schedule by it;
    `cache_salt`: for engines whose prefix cache can be separated by it; `traceparent`: of the client's trace.
    """

    added: frozenset[str] = frozenset()
    tier: str = "default"
    cache_salt: str | None = None
    traceparent: str | None = None


Request = dict[str, Any]
Chunk = dict[str, Any]
Completion = dict[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A served model as the catalog shows it. `context_length` is in tokens, None if unknown. `modalities`: the model's
    inputs (`text`, `image`, `audio`, …), empty if unknown. `parent`: for an adapter (LoRA), the id of the model that it
    adapts. `aliases`: other names that the engine has for the model. `capabilities`: what it can do, among them the
    APIs that it serves (`chat`, `embeddings`, …); empty if the engine cannot tell.
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

    Errors: `EngineRefused` if the request is invalid (with the engine's message, and its `code` and `param` if it sends
    them); `EngineError` for failures that another attempt may avoid (crash, timeout, out of memory, overload). An
    engine raises no other errors, except cancellation.
    """

    @property
    def card(self) -> ModelCard:
        """The main model as the catalog shows it; valid once `start` has returned."""
        ...

    @property
    def cards(self) -> Sequence[ModelCard]:
        """All models that the engine serves at present, the main one first."""
        ...

    async def cards_changed(self) -> None:
        """Returns when `cards` may have changed since the last call."""
        ...

    @property
    def state(self) -> EngineState | None:
        """The last state that the engine's server reported, or None."""
        ...

    @property
    def concurrency(self) -> int:
        """How many requests the engine processes at the same time: the worker's slots and its prefetch."""
        ...

    @property
    def continues_text(self) -> bool:
        """Whether `generate` supports `prefix`: continues a given assistant text without repeating it."""
        ...

    async def start(self) -> None:
        """Loads the model. Returns when the engine can generate. Raises EngineError with one clear sentence."""
        ...

    def continues_from(self, request: Request, prefix: str, progress: bytes) -> bool:
        """Whether `generate` can continue this partial answer of plain text. Otherwise the answer is replayed:
        generated again with the same seed, and compared with what was sent.
        """
        ...

    def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk, None]:
        """Yields the answer to `request` as OpenAI `chat.completion.chunk` dicts, as soon as the engine generates them.

        The last chunk has the usage, also if the client did not request it. Closing the generator (`aclose`) or
        cancelling its reader aborts the engine's work within one step and frees its slot.
        With `prefix` (only if `continues_from` allows it) the engine continues that partial assistant text, and the
        chunks contain only the text after it; `max_tokens` and usage count the whole answer, including the prefix.

        A chunk may have the field `progress`: bytes that the worker stores with the chunk's text. The next attempt gets
        the bytes of an attempt joined, as `progress`; an attempt that sends progress starts it anew.
        """
        ...

    async def complete(self, request: Request) -> Completion:
        """Returns the answer to `request` as one `chat.completion`. Cancelling the call aborts it within one step."""
        ...

    async def call(self, api: Api, request: Request) -> Answer:
        """Returns the answer of an endpoint other than chat, in the form of OpenAI's API or, for rerank, score,
        tokenize and detokenize, of vLLM's. Cancelling the call aborts it. Raises EngineRefused
        (`unsupported_endpoint`) where the model has no such endpoint.
        """
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
