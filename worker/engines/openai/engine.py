"""Generates with an OpenAI-compatible server: vLLM, SGLang, TGI, TensorRT-LLM, llama-server, Ollama."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from shared.errors import EngineError, EngineRefused
from shared.job import Api
from shared.ports import EngineState
from worker.engines.base import Answer, Chunk, Completion, EngineRequest, ModelCard, Request
from worker.engines.continuation import continue_after, is_spent, spent_chunks, whole_usage
from worker.engines.openai.answering import Answering, Ask
from worker.engines.openai.calls import PRIORITIZED, call
from worker.engines.openai.http_client import Address, Upstream, UpstreamLost
from worker.engines.openai.request_fields import ServerDialect, is_greedy
from worker.engines.openai.served_models import ServedModels, Wanted, served_models
from worker.engines.openai.server_health import ServerHealth, first_answer
from worker.engines.openai.server_metrics import ServerMetrics
from worker.engines.vllm.priority import priority_of
from worker.engines.vllm.record import Recorder
from worker.engines.vllm.resumed import OtherTokens, Resuming
from worker.engines.vllm.resumption import (
    Resumption,
    can_be_recorded,
    counts_tokens_made,
    resumption_of,
)
from worker.stream.fold import fold

log = structlog.get_logger(__name__)

Continuation = Literal["vllm", "prefill", "none"]


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """`wanted`: which of the server's models are served.

    `continuation`: how the server continues a partial answer: `vllm` by the ids of its tokens, or by fields of the
    request; `prefill` (llama-server) by a last message from the assistant; `none` if it cannot. None: `vllm` if the
    server reports that it is vLLM. `dialect`: the server's known deviations from OpenAI.
    """

    address: Address
    wanted: Wanted = field(default_factory=Wanted)
    concurrency: int = 64
    continuation: Continuation | None = None
    start_timeout: float = 600
    stall_timeout: float = 300
    dialect: ServerDialect = field(default_factory=ServerDialect)


class OpenAIEngine:
    def __init__(self, options: UpstreamOptions, *, kind: str = "openai") -> None:
        self.concurrency = options.concurrency
        self._metrics = ServerMetrics()
        self._continuation: Continuation = options.continuation or "none"
        self._kind = kind
        self._options = options
        self._served = _not_listed_yet(options.wanted, kind)
        self._main = ""
        self._changed = asyncio.Event()
        self._health = ServerHealth(self._listed)
        self._answering = Answering(
            options.address.shown,
            options.dialect,
            choices=options.concurrency,
            on_lost=self._health.suspect,
            on_answered=self._health.answered,
        )

    @property
    def state(self) -> EngineState | None:
        return self._metrics.state

    @property
    def card(self) -> ModelCard:
        return self._served.cards[0]

    @property
    def cards(self) -> Sequence[ModelCard]:
        return self._served.cards

    async def cards_changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def start(self) -> None:
        await self.connect(self._options.address)

    async def connect(self, address: Address) -> None:
        """Waits until the server at `address` answers, and uses it from then on. Requests on the old server fail."""
        await self.disconnect("connecting")
        upstream = Upstream(address, self._options.stall_timeout)
        self._health.connect(upstream)
        try:
            async with asyncio.timeout(self._options.start_timeout):
                models = await first_answer(upstream, next(iter(self._options.wanted.models), None))
        except TimeoutError:
            waited = f"{self._options.start_timeout:g} seconds"
            raise EngineError(f"{address.shown} has not answered within {waited}.") from None
        if not self._adopt(models):
            raise EngineError("The server lists no models: set model to the one to use.")
        await self._metrics.start(upstream)
        self._health.connected()

    async def disconnect(self, reason: str) -> None:
        await self._metrics.stop()
        await self._health.disconnect(reason)

    @property
    def continues_text(self) -> bool:
        return self._continuation != "none"

    def continues_from(self, request: Request, prefix: str, progress: bytes) -> bool:
        if self._resumption(request, prefix, progress) is not None:
            return True
        exact_again = self._answering.is_vllm and is_greedy(request) and counts_tokens_made(request)
        return self.continues_text and not exact_again

    async def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk, None]:
        resumption = self._resumption(request, prefix, progress)
        if resumption is not None:
            chunks = self._by_ids(request, prefix, resumption)
        elif prefix:
            chunks = self._after_text(request, prefix)
        else:
            chunks = self._from_start(request)
        async with self._asking(request), aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _from_start(self, request: Request) -> AsyncGenerator[Chunk, None]:
        records = self._continuation == "vllm" and can_be_recorded(request)
        ask = Ask.of(request, self._name_of(request), adds=self._adds(request, records=records))
        recorder = Recorder()
        async with aclosing(self._answering.chunks(self._health.upstream, ask)) as chunks:
            async for chunk in chunks:
                yield recorder.recorded(chunk) if records else chunk

    async def _by_ids(self, request: Request, prefix: str, resumption: Resumption) -> AsyncGenerator[Chunk, None]:
        try:
            async with aclosing(self._resuming(request).chunks(resumption)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        except OtherTokens as reason:
            log.warning("engine.ids_refused", reason=str(reason), next="continuing after the text")
        async with aclosing(self._after_text(request, prefix)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _after_text(self, request: Request, prefix: str) -> AsyncGenerator[Chunk, None]:
        upstream, model = self._health.upstream, self._name_of(request)
        prefix_tokens = await self._count_tokens(upstream, model, prefix)
        if is_spent(request, prefix_tokens):
            for chunk in spent_chunks(model, prefix_tokens):
                yield chunk
            return
        continued = self._continued(request, prefix, prefix_tokens)
        ask = Ask.of(continued, model, of_client=request, adds=self._adds(request))
        async with aclosing(self._answering.chunks(upstream, ask)) as chunks:
            async for chunk in chunks:
                if not chunk["choices"]:
                    chunk = {**chunk, "usage": whole_usage(chunk["usage"], prefix_tokens)}
                yield chunk

    def _resumption(self, request: Request, prefix: str, progress: bytes) -> Resumption | None:
        if not (prefix and progress) or self._continuation != "vllm":
            return None
        return resumption_of(request, prefix, progress)

    def _resuming(self, request: Request) -> Resuming:
        def ask(completion: Request, path: str) -> Ask:
            adds = self._adds(request, records=True)
            return Ask.of(completion, model, of_client=request, adds=adds, path=path)

        upstream, model = self._health.upstream, self._name_of(request)
        return Resuming(self._answering, upstream, model, self._context_length(request), request, ask)

    def _adds(self, request: Request, *, records: bool = False) -> Request:
        """Fields for vLLM that are the worker's: a client chooses neither its place in the engine's queue nor whose
        prefix cache it shares.
        """
        adds: Request = {"return_token_ids": True} if records else {}
        if self._answering.is_vllm and ((priority := priority_of(request)) or "priority" in request):
            adds["priority"] = priority
        if self._answering.is_vllm and isinstance(request, EngineRequest) and request.cache_salt is not None:
            adds["cache_salt"] = request.cache_salt
        return adds

    async def complete(self, request: Request) -> Completion:
        adds, streamed = self._adds(request), self._answering.is_llama_server
        ask = Ask.of(request, self._name_of(request), adds=adds, streamed=streamed)
        async with self._asking(request), aclosing(self._answering.chunks(self._health.upstream, ask)) as chunks:
            return fold([chunk async for chunk in chunks])

    async def call(self, api: Api, request: Request) -> Answer:
        upstream, model = self._health.upstream, self._name_of(request)
        async with self._asking(request):
            try:
                ask = Ask.of(request, model, adds=self._adds(request) if api in PRIORITIZED else None, streamed=False)
                found = await call(upstream, api, ask, llama_server=self._answering.is_llama_server)
            except UpstreamLost as lost:
                self._health.suspect(upstream, lost)
                raise
        self._health.answered(upstream)
        return found

    async def wait_unhealthy(self) -> str:
        return await self._health.wait_unhealthy()

    async def wait_healthy(self) -> None:
        await self._health.wait_healthy()

    async def close(self) -> None:
        await self.disconnect("the engine is closed")

    @asynccontextmanager
    async def _asking(self, request: Request) -> AsyncGenerator[None]:
        """Around a request. A server that refuses it since the model is gone may have a neighbour that has it."""
        with self._health.counted():
            try:
                yield
            except EngineRefused as refused:
                if refused.param == "model" or self._name_of(request) in refused.message:
                    await self._health.list_again()
                    self._name_of(request)
                raise

    def _name_of(self, request: Request) -> str:
        """Returns the server's name of the request's model. Raises EngineError where the server has it no longer."""
        model_id: str = request.get("model") or self.card.id
        try:
            return self._served.names[model_id]
        except KeyError:
            raise EngineError(f"The engine does not serve the model '{model_id}' any more.") from None

    def _context_length(self, request: Request) -> int | None:
        model_id = request.get("model") or self.card.id
        return next((card.context_length for card in self.cards if card.id == model_id), None)

    async def _count_tokens(self, upstream: Upstream, model: str, text: str) -> int:
        counts = upstream.count_tokens
        if not self._answering.is_llama_server:
            return await counts(model, text)
        # A tokenizer may put a space before a text, but not after a line break.
        return await counts(model, "\n" + text) - await counts(model, "\n")

    def _continued(self, request: Request, prefix: str, prefix_tokens: int) -> Request:
        continued = continue_after(request, prefix, prefix_tokens)
        if self._continuation == "vllm":
            return {**continued, "add_generation_prompt": False, "continue_final_message": True}
        return continued

    def _listed(self, models: list[dict[str, Any]]) -> None:
        """A list without models is no answer to the question: what was there before stays."""
        if models:
            self._adopt(models)

    def _adopt(self, models: list[dict[str, Any]]) -> bool:
        """Serves what the server lists now. Returns whether there is anything to serve; otherwise nothing changes."""
        before, served = self._served, served_models(models, self._options.wanted, self._kind, self._main)
        if served is None:
            return False
        self._served = served
        self._answering.is_llama_server = served.owned_by == "llamacpp"
        self._answering.is_vllm = served.owned_by == "vllm"
        self._continuation = self._options.continuation or ("vllm" if self._answering.is_vllm else "none")
        if self._main and served.cards != before.cards:
            self._changed.set()
        self._main = self._main or served.names[served.cards[0].id]
        if len(served.cards) > 1 and served != before:
            log.info(
                "engine.models",
                server=self._options.address.shown,
                models=[card.id for card in served.cards],
                left_out=list(served.left_out),
            )
        return True


def _not_listed_yet(wanted: Wanted, kind: str) -> ServedModels:
    name = wanted.models[0] if wanted.models else ""
    card = ModelCard(wanted.model_id or name, kind, capabilities=())
    return ServedModels((card,), {card.id: name})
