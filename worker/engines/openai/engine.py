"""Generates with an OpenAI-compatible server: vLLM, SGLang, TGI, TensorRT-LLM, llama-server, Ollama."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shared.errors import EngineError
from worker.engines.base import Chunk, Completion, ModelCard, Request
from worker.engines.continuation import continue_after, is_spent, spent_chunks, whole_usage
from worker.engines.llamacpp.dialect import input_modalities
from worker.engines.openai.answering import Answering, Ask
from worker.engines.openai.http_client import Address, Upstream
from worker.engines.openai.request_fields import ServerDialect
from worker.engines.openai.server_health import ServerHealth, first_answer
from worker.engines.vllm.priority import priority_of
from worker.engines.vllm.record import Recorder
from worker.engines.vllm.resumed import Resuming
from worker.engines.vllm.resumption import (
    Resumption,
    can_be_recorded,
    counts_tokens_made,
    is_greedy,
    resumption_of,
)
from worker.stream.fold import fold

Continuation = Literal["vllm", "prefill", "none"]


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """`model`: the server's name of the model, by default the first that it lists. `model_id`: Ignite's name.

    `continuation`: how the server continues a partial answer: `vllm` by the ids of its tokens, or by fields of the
    request; `prefill` (llama-server) by a last message from the assistant; `none` not at all. None: `vllm` where the
    server says that it is one. `dialect`: what is known of the server beforehand.
    """

    address: Address
    model: str | None = None
    model_id: str | None = None
    concurrency: int = 64
    continuation: Continuation | None = None
    start_timeout: float = 600
    stall_timeout: float = 300
    dialect: ServerDialect = field(default_factory=ServerDialect)


class OpenAIEngine:
    def __init__(self, options: UpstreamOptions, *, kind: str = "openai") -> None:
        self.concurrency = options.concurrency
        self._continuation: Continuation = options.continuation or "none"
        self._is_vllm = False
        self.card = ModelCard(options.model_id or options.model or "", kind)
        self._options = options
        self._model = options.model or ""
        self._health = ServerHealth()
        self._answering = Answering(
            options.address.shown,
            options.dialect,
            choices=options.concurrency,
            lost=self._health.suspect,
            heard=self._health.heard_from,
        )

    async def start(self) -> None:
        await self.connect(self._options.address)

    async def connect(self, address: Address) -> None:
        """Waits until the server at `address` answers, and uses it from then on. Requests on the old server fail."""
        await self.disconnect("connecting")
        upstream = Upstream(address, self._options.stall_timeout)
        self._health.connect(upstream)
        try:
            async with asyncio.timeout(self._options.start_timeout):
                models = await first_answer(upstream, self._options.model)
        except TimeoutError:
            waited = f"{self._options.start_timeout:g} seconds"
            raise EngineError(f"{address.shown} has not answered within {waited}.") from None
        self._adopt(models)
        self._health.connected()

    async def disconnect(self, reason: str) -> None:
        await self._health.disconnect(reason)

    @property
    def continues_text(self) -> bool:
        return self._continuation != "none"

    def continues_from(self, request: Request, prefix: str, progress: bytes) -> bool:
        if self._resumption(request, prefix, progress) is not None:
            return True
        exact_again = self._is_vllm and is_greedy(request) and counts_tokens_made(request)
        return self.continues_text and not exact_again

    async def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk, None]:
        resumption = self._resumption(request, prefix, progress)
        if resumption is not None:
            chunks = self._resuming(request).chunks(resumption)
        elif prefix:
            chunks = self._after_text(request, prefix)
        else:
            chunks = self._from_start(request)
        with self._health.counted():
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk

    async def _from_start(self, request: Request) -> AsyncGenerator[Chunk, None]:
        records = self._continuation == "vllm" and can_be_recorded(request)
        ask = Ask.of(request, self._model, adds=self._adds(request, records=records))
        recorder = Recorder()
        async with aclosing(self._answering.chunks(self._health.upstream, ask)) as chunks:
            async for chunk in chunks:
                yield recorder.recorded(chunk) if records else chunk

    async def _after_text(self, request: Request, prefix: str) -> AsyncGenerator[Chunk, None]:
        upstream = self._health.upstream
        prefix_tokens = await self._count_tokens(upstream, prefix)
        if is_spent(request, prefix_tokens):
            for chunk in spent_chunks(self._model, prefix_tokens):
                yield chunk
            return
        continued = self._continued(request, prefix, prefix_tokens)
        ask = Ask.of(continued, self._model, of_client=request, adds=self._adds(request))
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
            return Ask.of(completion, self._model, of_client=request, adds=adds, path=path)

        upstream = self._health.upstream
        return Resuming(self._answering, upstream, self._model, self.card.context_length, request, ask)

    def _adds(self, request: Request, *, records: bool = False) -> Request:
        """Fields for vLLM that are the worker's: a client does not choose its place in the engine's queue."""
        adds: Request = {"return_token_ids": True} if records else {}
        if self._is_vllm and ((priority := priority_of(request)) or "priority" in request):
            adds["priority"] = priority
        return adds

    async def complete(self, request: Request) -> Completion:
        ask = Ask.of(request, self._model, adds=self._adds(request), streamed=self._answering.is_llama_server)
        with self._health.counted():
            async with aclosing(self._answering.chunks(self._health.upstream, ask)) as chunks:
                return fold([chunk async for chunk in chunks])

    async def wait_unhealthy(self) -> str:
        return await self._health.wait_unhealthy()

    async def wait_healthy(self) -> None:
        await self._health.wait_healthy()

    async def close(self) -> None:
        await self.disconnect("the engine is closed")

    async def _count_tokens(self, upstream: Upstream, text: str) -> int:
        counts = upstream.count_tokens
        if not self._answering.is_llama_server:
            return await counts(self._model, text)
        # A tokenizer may put a space before a text, but not after a line break.
        return await counts(self._model, "\n" + text) - await counts(self._model, "\n")

    def _continued(self, request: Request, prefix: str, prefix_tokens: int) -> Request:
        continued = continue_after(request, prefix, prefix_tokens)
        if self._continuation == "vllm":
            return {**continued, "add_generation_prompt": False, "continue_final_message": True}
        return continued

    def _adopt(self, models: list[dict[str, Any]]) -> None:
        """Takes the model's name and context length from the server's list."""
        named = [model for model in models if model.get("id") == self._options.model]
        listed = (named or models or [{}])[0]
        self._model = self._options.model or str(listed.get("id") or "")
        if not self._model:
            raise EngineError("The server lists no models: set model to the one to use.")
        self._answering.is_llama_server = listed.get("owned_by") == "llamacpp"
        self._is_vllm = listed.get("owned_by") == "vllm"
        self._continuation = self._options.continuation or ("vllm" if self._is_vllm else "none")
        self.card = replace(
            self.card,
            id=self._options.model_id or self._model,
            context_length=_context_length(listed),
            modalities=input_modalities(listed),
        )


def _context_length(model: dict[str, Any]) -> int | None:
    """Reads vLLM's `max_model_len`, or llama-server's `meta.n_ctx` (per slot) or `meta.n_ctx_train`."""
    meta: dict[str, Any] = model.get("meta") or {}
    return model.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")
