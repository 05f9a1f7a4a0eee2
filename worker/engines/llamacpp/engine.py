"""Runs a GGUF file with llama.cpp in a separate process: continuous batching, no GPU needed.

A crash or a hang of native code ends that process but not the worker: the process is started again, and its jobs are
tried again.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shared.errors import EngineError
from shared.job import Api
from shared.ports import EngineState
from worker.engines.base import Answer, Chunk, Completion, ModelCard, Request
from worker.engines.llamacpp import process
from worker.engines.llamacpp.gguf import check_gguf
from worker.engines.managed.engine import ManagedEngine, ManagedOptions
from worker.engines.openai.engine import UpstreamOptions
from worker.engines.openai.http_client import Address
from worker.engines.openai.served_models import Wanted

CAPABILITIES = ("chat", "stream", "tools", "json_schema", "logprobs", "completions", "tokenize", "detokenize")

Pooling = Literal["mean"]

GRACE = 0.0
"""llama.cpp has nothing to save: its process is killed."""


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """`context_length` is per slot; llama.cpp lowers it to the model's training context. Times are in seconds.
    `pooling`: makes a chat model answer embeddings, too: how the states of its tokens become one vector.
    """

    path: Path
    model_id: str
    slots: int
    context_length: int
    threads: int | None = None
    gpu_layers: int | None = None
    pooling: Pooling | None = None
    description: str | None = None
    start_timeout: float = 600
    stall_timeout: float = 300


class LlamaCppEngine:
    def __init__(self, options: LlamaOptions) -> None:
        self._options = options
        self._managed = ManagedEngine(_managed(options), kind="llamacpp")

    @property
    def card(self) -> ModelCard:
        return replace(self._managed.card, description=self._options.description, capabilities=self._capabilities())

    @property
    def cards(self) -> Sequence[ModelCard]:
        return (self.card,)

    def _capabilities(self) -> tuple[str, ...]:
        return (*CAPABILITIES, "embeddings") if self._options.pooling else CAPABILITIES

    async def cards_changed(self) -> None:
        await self._managed.cards_changed()

    @property
    def state(self) -> EngineState | None:
        return self._managed.state

    @property
    def concurrency(self) -> int:
        return self._managed.concurrency

    @property
    def continues_text(self) -> bool:
        return self._managed.continues_text

    async def start(self) -> None:
        check_gguf(self._options.path)
        try:
            await self._managed.start()
        except EngineError as error:
            path = self._options.path
            cannot = f"llama.cpp cannot load {path}: it does not support the model, or the memory is too small."
            raise EngineError(cannot, detail=error.detail or error.message) from error

    def continues_from(self, request: Request, prefix: str, progress: bytes) -> bool:
        return self._managed.continues_from(request, prefix, progress)

    def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk, None]:
        return self._managed.generate(request, prefix, progress)

    async def complete(self, request: Request) -> Completion:
        return await self._managed.complete(request)

    async def call(self, api: Api, request: Request) -> Answer:
        return await self._managed.call(api, request)

    async def wait_unhealthy(self) -> str:
        return await self._managed.wait_unhealthy()

    async def wait_healthy(self) -> None:
        await self._managed.wait_healthy()

    async def close(self) -> None:
        await self._managed.close()


def _managed(options: LlamaOptions) -> ManagedOptions:
    upstream = UpstreamOptions(
        Address(""),
        wanted=Wanted(model_id=options.model_id),
        concurrency=options.slots,
        continuation="prefill",
        start_timeout=options.start_timeout,
        stall_timeout=options.stall_timeout,
    )
    return ManagedOptions(
        str(options.path), upstream, shlex.join(_command(options)), grace=GRACE, title="llama.cpp's process"
    )


def _command(options: LlamaOptions) -> list[str]:
    # -P: modules beside process.py must not hide packages of the same name.
    program = (sys.executable, "-P", process.__file__)
    values = {
        "model": "{model}",
        "model-id": options.model_id,
        "socket": "{uds}",
        "slots": options.slots,
        "context-length": options.context_length,
        "threads": options.threads,
        "gpu-layers": options.gpu_layers,
        "pooling": options.pooling,
        "stall-timeout": options.stall_timeout,
    }
    return [*program, *(f"--{name}={value}" for name, value in values.items() if value is not None)]
