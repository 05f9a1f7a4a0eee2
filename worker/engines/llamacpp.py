"""llama.cpp in this process: a GGUF file, continuous batching, no GPU needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import orjson

from shared.errors import EngineError, IgniteError
from worker.engines.base import Chunk, Completion, ModelCard, Request
from worker.engines.continuation import continue_after, is_spent, spent_chunks
from worker.engines.handoff import Handoff
from worker.engines.health import Health
from worker.engines.llamacpp_server import LlamaOptions, LlamaServer
from worker.engines.quirks import AnswerCorrection, error_from_exception, input_modalities, request_per_choice
from worker.fold import fold

T = TypeVar("T")

# A native step cannot be interrupted; past this the process goes on without waiting for it.
CLOSE_TIMEOUT = 30


class LlamaCppEngine:
    """One thread per slot: llama.cpp's calls block until the answer is complete."""

    continues_text = True

    def __init__(self, options: LlamaOptions, *, description: str | None = None, stall_timeout: float = 300) -> None:
        self.concurrency = options.slots
        self.card = ModelCard(options.model_id, "llamacpp", description=description)
        self._options = options
        self._description = description
        self._stall_timeout = stall_timeout
        self._health = Health()
        self._server: LlamaServer | None = None
        self._threads = ThreadPoolExecutor(options.slots, thread_name_prefix="llamacpp")
        self._answers: set[_Answer] = set()

    async def start(self) -> None:
        server = self._server = await self._in_thread(LlamaServer, self._options)
        model = await self._in_thread(server.model)
        self.card = ModelCard(
            self._options.model_id,
            "llamacpp",
            context_length=int(model["meta"]["n_ctx"]),
            description=self._description,
            capabilities=("chat", "stream", "tools", "json_schema", "logprobs"),
            modalities=input_modalities(model),
        )
        self._health.recovered()

    async def generate(self, request: Request, prefix: str = "") -> AsyncGenerator[Chunk, None]:
        prefix_tokens = await self._count_tokens(prefix)
        if is_spent(request, prefix_tokens):
            for chunk in spent_chunks(self.card.id, prefix_tokens):
                yield chunk
            return
        correction = AnswerCorrection(request, prefix_tokens)
        asked = continue_after(request, prefix, prefix_tokens) if prefix else request
        async with aclosing(self._raw_chunks(request_per_choice(asked))) as chunks:
            async for index, raw in chunks:
                chunk = correction.correct(index, orjson.loads(raw))
                if chunk is not None:
                    yield chunk
        yield correction.usage_chunk()

    async def complete(self, request: Request) -> Completion:
        # llama.cpp cannot be stopped while it works on an unstreamed answer.
        async with aclosing(self.generate(request)) as chunks:
            return fold([chunk async for chunk in chunks])

    async def wait_unhealthy(self) -> str:
        return await self._health.wait_unhealthy()

    async def wait_healthy(self) -> None:
        await self._health.wait_healthy()

    async def close(self) -> None:
        self._health.failed("the engine is closed")
        for answer in self._answers:
            answer.fail(EngineError("The engine was closed."))
        self._server = None
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.to_thread(self._threads.shutdown)

    async def _raw_chunks(self, requests: list[Request]) -> AsyncGenerator[tuple[int, bytes], None]:
        answer = _Answer(self._running_server(), self._stall_timeout)
        self._answers.add(answer)
        try:
            for index, request in enumerate(requests):
                answer.choices.append(self._threads.submit(answer.generate, index, request))
            async for chunk in answer.chunks():
                yield chunk
        finally:
            answer.stop()
            self._answers.discard(answer)

    async def _count_tokens(self, text: str) -> int:
        return await self._in_thread(self._running_server().count_tokens, text) if text else 0

    def _running_server(self) -> LlamaServer:
        if self._server is None or not self._health.well:
            raise EngineError(f"llama.cpp cannot generate: {self._health.reason}.")
        return self._server

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


class _Answer:
    """One answer in the making: a thread per choice writes, the event loop reads."""

    def __init__(self, server: LlamaServer, stall_timeout: float) -> None:
        self.choices: list[Future[None]] = []
        self._server = server
        self._stopped = False
        self._handoff: Handoff[tuple[int, bytes | None] | IgniteError] = Handoff(stall_timeout)

    def generate(self, index: int, request: Request) -> None:
        """In a thread of its own, until the choice is complete or the answer is stopped."""
        heard = False

        def on_chunk(chunk: bytes) -> bool:
            nonlocal heard
            heard = True
            self._handoff.put((index, chunk))
            return self._stopped

        if self._stopped:
            return
        try:
            self._server.chat(orjson.dumps(request), on_chunk)
        except Exception as error:
            self.fail(EngineError(f"llama.cpp failed: {error}") if heard else error_from_exception(error, request))
        else:
            self._handoff.put((index, None))

    async def chunks(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """The choices' chunks as they come, each with its choice's index; ends when every choice has."""
        unfinished = len(self.choices)
        async with aclosing(aiter(self._handoff)) as items:
            async for item in items:
                if isinstance(item, IgniteError):
                    raise item
                index, chunk = item
                if chunk is not None:
                    yield index, chunk
                elif (unfinished := unfinished - 1) == 0:
                    return

    def fail(self, error: IgniteError) -> None:
        self._stopped = True
        self._handoff.put(error)

    def stop(self) -> None:
        self._stopped = True
        for choice in self.choices:
            choice.cancel()
