"""Any OpenAI-compatible server by its address: vLLM, SGLang, TGI, TensorRT-LLM, llama-server, Ollama."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from shared.errors import EngineError, EngineRefused, IgniteError
from worker.engines.base import Chunk, Completion, ModelCard, Request
from worker.engines.continuation import continue_after, is_spent, spent_chunks, whole_usage
from worker.engines.health import Health
from worker.engines.merging import merged
from worker.engines.quirks import AnswerCorrection, error_from, input_modalities, refusal, request_per_choice
from worker.engines.upstream import KEY_REFUSED, Address, Upstream, UpstreamFailed, UpstreamLost, in_band_error
from worker.fold import fold

Continuation = Literal["vllm", "prefill", "none"]

# Seconds between two questions to a server that does not answer.
FIRST_PAUSE = 0.1
LAST_PAUSE = 2.0

ASK_WHEN_IDLE = 15.0
"""Seconds after which a server of which nobody wants anything is asked whether it is still there."""


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """`model` is the upstream's name for it, `model_id` ours; by default the first that it lists.

    `continuation` is how it goes on after a partial answer: as vLLM when told so, as llama-server with any
    last message from the assistant, or not at all.
    """

    address: Address
    model: str | None = None
    model_id: str | None = None
    concurrency: int = 64
    continuation: Continuation = "none"
    start_timeout: float = 600
    stall_timeout: float = 300


class OpenAIEngine:
    def __init__(self, options: UpstreamOptions, *, kind: str = "openai") -> None:
        self.concurrency = options.concurrency
        self.continues_text = options.continuation != "none"
        self.card = ModelCard(options.model_id or options.model or "", kind)
        self._options = options
        self._health = Health()
        self._upstream: Upstream | None = None
        self._model = options.model or ""
        self._under_way = 0
        self._is_llama_server = False

    async def start(self) -> None:
        await self.connect(self._options.address)

    async def connect(self, address: Address) -> None:
        """Wait until the server at `address` answers and use it from then on; what runs on another fails."""
        await self.disconnect("connecting")
        upstream = self._upstream = Upstream(address, self._options.stall_timeout)
        try:
            async with asyncio.timeout(self._options.start_timeout):
                models = await _answered(upstream)
        except TimeoutError:
            waited = f"{self._options.start_timeout:g} seconds"
            raise EngineError(f"{address.url} has not answered within {waited}.") from None
        self._adopt(models)
        self._health.recovered()

    async def disconnect(self, reason: str) -> None:
        self._health.failed(reason)
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            await upstream.close()

    async def generate(self, request: Request, prefix: str = "") -> AsyncGenerator[Chunk, None]:
        upstream = self._connected()
        prefix_tokens = await upstream.count_tokens(self._model, prefix) if prefix else 0
        if is_spent(request, prefix_tokens):
            for chunk in spent_chunks(self._model, prefix_tokens):
                yield chunk
            return
        asked = self._continued(request, prefix, prefix_tokens) if prefix else request
        progress = _Progress(choices=asked.get("n") or 1)
        async with self._counted(), aclosing(self._chunks(upstream, asked)) as chunks:
            async for chunk in chunks:
                if progress.note(chunk):
                    yield chunk
        if not progress.finished:
            raise self._lost(upstream, UpstreamLost("The engine's stream ended in the middle."))
        yield progress.usage_chunk(prefix_tokens)

    async def complete(self, request: Request) -> Completion:
        upstream = self._connected()
        if self._is_llama_server:
            async with aclosing(self.generate(request)) as chunks:
                return fold([chunk async for chunk in chunks])
        body = {**request, "model": self._model, "stream": False}
        body.pop("stream_options", None)
        try:
            async with self._counted():
                completion = await upstream.complete(body)
        except UpstreamLost as lost:
            raise self._lost(upstream, lost) from lost
        if "error" in completion:
            raise in_band_error(completion["error"])
        self._heard_from(upstream)
        return completion

    async def wait_unhealthy(self) -> str:
        """Asks a server that has nothing to do now and then: it may have died without anybody noticing."""
        while True:
            try:
                async with asyncio.timeout(ASK_WHEN_IDLE):
                    return await self._health.wait_unhealthy()
            except TimeoutError:
                if not self._under_way:
                    await self._ask_idle()

    async def wait_healthy(self) -> None:
        """Asks the server now and then, but only as long as it is not well."""
        pause = FIRST_PAUSE
        while not await self._answers():
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._health.wait_healthy()
            pause = min(2 * pause, LAST_PAUSE)

    async def close(self) -> None:
        await self.disconnect("the engine is closed")

    def _chunks(self, upstream: Upstream, asked: Request) -> AsyncGenerator[Chunk, None]:
        if self._is_llama_server:
            return self._from_llama_server(upstream, asked)
        return self._watched(upstream, self._streamed(asked))

    async def _from_llama_server(self, upstream: Upstream, asked: Request) -> AsyncGenerator[Chunk, None]:
        correction = AnswerCorrection(asked)
        streams = [self._watched(upstream, self._streamed(one)) for one in request_per_choice(asked)]
        try:
            async with aclosing(merged(streams)) as chunks:
                async for index, raw in chunks:
                    if (chunk := correction.correct(index, raw)) is not None:
                        yield chunk
        except UpstreamFailed as failed:
            raise error_from(failed.said, asked) from failed
        except EngineRefused as refused:
            if refused.param:
                raise
            raise refusal(refused.message, asked) from refused
        if correction.counted:
            yield correction.usage_chunk()

    async def _watched(self, upstream: Upstream, body: Request) -> AsyncGenerator[Chunk, None]:
        try:
            async with aclosing(upstream.stream(body)) as chunks:
                async for chunk in chunks:
                    if "error" in chunk:
                        raise in_band_error(chunk["error"])
                    yield chunk
        except UpstreamLost as lost:
            raise self._lost(upstream, lost) from lost
        self._heard_from(upstream)

    def _connected(self) -> Upstream:
        if self._upstream is None:
            raise EngineError(f"The engine cannot generate: {self._health.reason}.")
        return self._upstream

    def _continued(self, request: Request, prefix: str, prefix_tokens: int) -> Request:
        continued = continue_after(request, prefix, prefix_tokens)
        if self._options.continuation == "vllm":
            return {**continued, "add_generation_prompt": False, "continue_final_message": True}
        return continued

    def _streamed(self, request: Request) -> Request:
        options: dict[str, Any] = request.get("stream_options") or {}
        options = options | {"include_usage": True}
        return request | {"model": self._model, "stream": True, "stream_options": options}

    def _lost(self, upstream: Upstream, lost: UpstreamLost) -> UpstreamLost:
        if upstream is self._upstream:
            self._health.failed(lost.message)
        return lost

    def _heard_from(self, upstream: Upstream) -> None:
        if upstream is self._upstream:
            self._health.recovered()

    async def _answers(self) -> bool:
        upstream = self._upstream
        if upstream is None:
            return False
        if not self._health.well:
            try:
                await upstream.models()
            except IgniteError:
                return False
            self._heard_from(upstream)
        return self._health.well

    async def _ask_idle(self) -> None:
        """Twice before it is given up: a busy machine may be slow to answer once."""
        if (upstream := self._upstream) is None:
            return
        for last in (False, True):
            try:
                await upstream.models()
                return
            except UpstreamLost as lost:
                if last:
                    self._lost(upstream, lost)
            except IgniteError:
                return  # It answers, and what is wrong will be said to whoever asks for something.

    @asynccontextmanager
    async def _counted(self) -> AsyncGenerator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _adopt(self, models: list[dict[str, Any]]) -> None:
        """Which model it is and how long its context, as the server's own list says."""
        named = [model for model in models if model.get("id") == self._options.model]
        listed = (named or models or [{}])[0]
        self._model = self._options.model or str(listed.get("id") or "")
        if not self._model:
            raise EngineError("The server lists no models: say which one to use.")
        self._is_llama_server = listed.get("owned_by") == "llamacpp"
        self.card = replace(
            self.card,
            id=self._options.model_id or self._model,
            context_length=_context_length(listed),
            modalities=input_modalities(listed),
        )


class _Progress:
    """What a stream has shown so far: who has finished, and the usage, which is kept for its end."""

    def __init__(self, choices: int) -> None:
        self._unfinished = set(range(choices))
        self._last: Chunk = {}
        self._usage: dict[str, Any] | None = None
        self._contents = 0

    @property
    def finished(self) -> bool:
        return not self._unfinished

    def note(self, chunk: Chunk) -> bool:
        """Whether to pass the chunk on."""
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        self._last = chunk
        for choice in chunk["choices"]:
            self._contents += 1
            if choice.get("finish_reason"):
                self._unfinished.discard(choice["index"])
        return bool(chunk["choices"])

    def usage_chunk(self, prefix_tokens: int) -> Chunk:
        # A server that does not count sends about one chunk per token.
        usage = self._usage or {
            "prompt_tokens": 0,
            "completion_tokens": self._contents,
            "total_tokens": self._contents,
        }
        return {**self._last, "choices": [], "usage": whole_usage(usage, prefix_tokens)}


async def _answered(upstream: Upstream) -> list[dict[str, Any]]:
    """The server's models as soon as it answers; a server without such a list has answered, too."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await upstream.models()
        except EngineRefused:
            return []
        except EngineError as error:
            if error.code == KEY_REFUSED:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


def _context_length(model: dict[str, Any]) -> int | None:
    """vLLM says `max_model_len`; llama-server `meta.n_ctx` (a slot's) and `meta.n_ctx_train`."""
    meta: dict[str, Any] = model.get("meta") or {}
    return model.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")
