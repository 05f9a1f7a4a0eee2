"""Creates engines. Each engine's package is imported only when needed: a GPU machine needs no llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared.errors import EngineError
from shared.settings import split_list
from worker.engines.base import Engine

if TYPE_CHECKING:
    from worker.engines.openai.engine import UpstreamOptions
    from worker.engines.openai.http_client import Address

EngineKind = Literal["llamacpp", "openai", "vllm", "simulated"]
Continuation = Literal["vllm", "prefill", "none"]

DEMO_DESCRIPTION = "Demo: a few megabytes that show the pipe works. It knows a handful of sentences."
DEMO_CONTEXT = 2048
"""Tokens per slot: 2,048 take 5 MB of memory."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to reach or start one engine. None means the engine's default; an engine ignores settings of other kinds.

    `model`: a GGUF file, a model name for `vllm serve`, or the upstream's names, comma-separated; `model_id`: Ignite's
    name for the first; `model_limit`: the most models of one server.
    `command`: a template with `{model}` and `{port}` or `{uds}`; `extra_args` follow it. Times are in seconds.
    """

    kind: EngineKind = "llamacpp"
    model: str | None = None
    model_id: str | None = None
    model_limit: int = 32
    concurrency: int | None = None
    context_length: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    url: str | None = None
    api_key: str | None = None
    command: str | None = None
    extra_args: tuple[str, ...] = ()
    continuation: Continuation | None = None
    omitted_fields: tuple[str, ...] = ()
    knows_max_tokens_only: bool = False
    start_timeout: float = 600
    stall_timeout: float = 300
    simulated_tokens: int = 64
    simulated_seed: int = 0
    simulated_itl_ms: int = 0
    simulated_ttft_ms: int = 0


def open_engine(settings: EngineSettings) -> Engine:
    """Creates an engine, which loads nothing before `start`. Raises EngineError where a setting is missing."""
    return _OPENERS[settings.kind](settings)


def _simulated(settings: EngineSettings) -> Engine:
    from worker.engines.simulated import SimulatedEngine

    return SimulatedEngine(
        model_id=settings.model_id or settings.model or "simulated",
        concurrency=settings.concurrency or 1024,
        tokens=settings.simulated_tokens,
        seed=settings.simulated_seed,
        itl_ms=settings.simulated_itl_ms,
        ttft_ms=settings.simulated_ttft_ms,
    )


def _llamacpp(settings: EngineSettings) -> Engine:
    from worker.engines.llamacpp.engine import LlamaCppEngine, LlamaOptions

    options = LlamaOptions(
        path=Path(settings.model) if settings.model else _demo_model(),
        model_id=settings.model_id or (Path(settings.model).stem if settings.model else "demo"),
        slots=settings.concurrency or (4 if settings.model else 16),
        context_length=settings.context_length or (4096 if settings.model else DEMO_CONTEXT),
        # The demo model is so small that a second thread makes it slower.
        threads=settings.threads or (None if settings.model else 1),
        gpu_layers=settings.gpu_layers,
        # The demo model is no embedding model: the mean of its own states shows that the endpoint works.
        pooling=None if settings.model else "mean",
        description=None if settings.model else DEMO_DESCRIPTION,
        start_timeout=settings.start_timeout,
        stall_timeout=settings.stall_timeout,
    )
    return LlamaCppEngine(options)


def _openai(settings: EngineSettings) -> Engine:
    from worker.engines.openai.engine import OpenAIEngine
    from worker.engines.openai.http_client import Address

    if not settings.url:
        raise EngineError(
            "The openai engine needs the server's address: set engine_url, like http://127.0.0.1:8001/v1."
        )
    return OpenAIEngine(_upstream(settings, Address(settings.url, settings.api_key)))


def _vllm(settings: EngineSettings) -> Engine:
    from worker.engines.managed.engine import VLLM_COMMAND, ManagedEngine, ManagedOptions
    from worker.engines.openai.http_client import Address

    command = settings.command or VLLM_COMMAND
    if "{port}" not in command and "{uds}" not in command:
        raise EngineError("engine_command must say where to listen: put {port} or {uds} into it.")
    if not settings.model:
        raise EngineError("The vllm engine needs a model: a name that `vllm serve` knows, or a directory.")
    upstream = _upstream(settings, Address("", settings.api_key), None if settings.command else "vllm")
    # The process may serve the model under another name: requests may use either.
    wanted = replace(
        upstream.wanted,
        models=(),
        model_id=settings.model_id or settings.model,
        also_listed_name=settings.model_id is None,
    )
    upstream = replace(upstream, wanted=wanted)
    return ManagedEngine(ManagedOptions(settings.model, upstream, command, extra_args=settings.extra_args))


def _upstream(settings: EngineSettings, address: Address, continuation: Continuation | None = None) -> UpstreamOptions:
    from worker.engines.openai.engine import UpstreamOptions
    from worker.engines.openai.request_fields import OLDER_NAMES, ServerDialect
    from worker.engines.openai.served_models import Wanted

    renamed = frozenset(OLDER_NAMES) if settings.knows_max_tokens_only else frozenset[str]()
    return UpstreamOptions(
        address,
        wanted=Wanted(tuple(split_list(settings.model or "")), settings.model_id, limit=settings.model_limit),
        concurrency=settings.concurrency or 64,
        continuation=settings.continuation or continuation,
        start_timeout=settings.start_timeout,
        stall_timeout=settings.stall_timeout,
        dialect=ServerDialect(frozenset(settings.omitted_fields), renamed),
    )


def _demo_model() -> Path:
    from worker.engines.demo_model import MODEL_PATH

    return MODEL_PATH


_OPENERS: dict[EngineKind, Callable[[EngineSettings], Engine]] = {
    "llamacpp": _llamacpp,
    "openai": _openai,
    "vllm": _vllm,
    "simulated": _simulated,
}
