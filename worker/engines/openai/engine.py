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
from worker.stream.fold import fold

Continuation = Literal["vllm", "prefill", "none"]


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """`model`: the server's name of the model, by default the first that it lists. `model_id`: Ignite's name.

    `continuation`: how the server continues a partial answer: `vllm` by fields of the request, `prefill` (llama-server)
    by a last message from the assistant, `none` not at all. `dialect`: what is known of the server beforehand.
    """

    address: Address
    model: str | None = None
    model_id: str | None = None
    concurrency: int = 64
    continuation: Continuation = "none"
    start_timeout: float = 600
    stall_timeout: float = 300
    dialect: ServerDialect = field(default_factory=ServerDialect)


class OpenAIEngine:
    def __init__(self, options: UpstreamOptions, *, kind: str = "openai") -> None:
        self.concurrency = options.concurrency
        self.continues_text = options.continuation != "none"
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

    async def generate(self, request: Request, prefix: str = "") -> AsyncGenerator[Chunk, None]:
        upstream = self._health.upstream
        prefix_tokens = await self._count_tokens(upstream, prefix) if prefix else 0
        if is_spent(request, prefix_tokens):
            for chunk in spent_chunks(self._model, prefix_tokens):
                yield chunk
            return
        asked = self._continued(request, prefix, prefix_tokens) if prefix else request
        ask = Ask.of(asked, self._model, of_client=request)
        with self._health.counted():
            async with aclosing(self._answering.chunks(upstream, ask)) as chunks:
                async for chunk in chunks:
                    if not chunk["choices"]:
                        chunk = {**chunk, "usage": whole_usage(chunk["usage"], prefix_tokens)}
                    yield chunk

    async def complete(self, request: Request) -> Completion:
        ask = Ask.of(request, self._model, streamed=self._answering.is_llama_server)
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
        if self._options.continuation == "vllm":
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
