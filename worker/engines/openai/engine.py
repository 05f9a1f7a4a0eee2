"""Generates with an OpenAI-compatible server: vLLM, SGLang, TGI, TensorRT-LLM, llama-server, Ollama."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import structlog

from shared.errors import EngineError, EngineOverloaded, EngineRefused
from worker.engines.base import Chunk, Completion, EngineRequest, ModelCard, Request
from worker.engines.continuation import continue_after, is_spent, spent_chunks, whole_usage
from worker.engines.health import Health
from worker.engines.llamacpp.dialect import AnswerCorrection, error_from, input_modalities, refusal, request_per_choice
from worker.engines.merging import limited, merged
from worker.engines.openai.failures import UpstreamFailed, key_refused
from worker.engines.openai.http_client import Address, Upstream, UpstreamLost
from worker.engines.openai.normalizing.normalizer import Normalizer
from worker.engines.openai.request_fields import ServerDialect, per_choice, without_nulls
from worker.stream.fold import fold

log = structlog.get_logger(__name__)

Continuation = Literal["vllm", "prefill", "none"]

# Seconds between two probes of a server that does not answer.
FIRST_PAUSE = 0.1
LAST_PAUSE = 2.0

PROBE_WHEN_IDLE = 15.0
"""Seconds between two probes of a server that has no requests."""

USAGE_TIMEOUT = 10.0
"""Seconds to wait for the usage after every choice has ended."""

END_TIMEOUT = 1.0
"""Seconds to wait for the end of the response after `[DONE]`."""

KEY_STATUSES = frozenset({401, 403})
LOADING_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses of a server, or of a proxy before one, that is still starting."""


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
        self._health = Health()
        self._upstream: Upstream | None = None
        self._probe: asyncio.Task[None] | None = None
        self._model = options.model or ""
        self._dialect = options.dialect
        self._under_way = 0
        self._is_llama_server = False
        # Choices beyond the slots wait here: inside llama-server their silence would look like a stall.
        self._choices = asyncio.Semaphore(options.concurrency)

    async def start(self) -> None:
        await self.connect(self._options.address)

    async def connect(self, address: Address) -> None:
        """Waits until the server at `address` answers, and uses it from then on. Requests on the old server fail."""
        await self.disconnect("connecting")
        upstream = self._upstream = Upstream(address, self._options.stall_timeout)
        try:
            async with asyncio.timeout(self._options.start_timeout):
                models = await _answered(upstream, self._options.model)
        except TimeoutError:
            waited = f"{self._options.start_timeout:g} seconds"
            raise EngineError(f"{address.shown} has not answered within {waited}.") from None
        self._adopt(models)
        self._health.recovered()

    async def disconnect(self, reason: str) -> None:
        self._health.failed(reason)
        upstream, self._upstream = self._upstream, None
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()
            await asyncio.wait({probe})
        if upstream is not None:
            await upstream.close()

    async def generate(self, request: Request, prefix: str = "") -> AsyncGenerator[Chunk, None]:
        upstream = self._connected()
        prefix_tokens = await self._count_tokens(upstream, prefix) if prefix else 0
        if is_spent(request, prefix_tokens):
            for chunk in spent_chunks(self._model, prefix_tokens):
                yield chunk
            return
        asked = self._continued(request, prefix, prefix_tokens) if prefix else request
        with self._counted():
            async with aclosing(self._chunks(upstream, _Ask(asked, _added(request), streamed=True))) as chunks:
                async for chunk in chunks:
                    if not chunk["choices"]:
                        chunk = {**chunk, "usage": whole_usage(chunk["usage"], prefix_tokens)}
                    yield chunk

    async def complete(self, request: Request) -> Completion:
        ask = _Ask(request, _added(request), streamed=self._is_llama_server)
        with self._counted():
            async with aclosing(self._chunks(self._connected(), ask)) as chunks:
                return fold([chunk async for chunk in chunks])

    async def wait_unhealthy(self) -> str:
        """Waits for a failure. Probes a server without requests now and then, since no request would show its death."""
        while True:
            try:
                async with asyncio.timeout(PROBE_WHEN_IDLE):
                    return await self._health.wait_unhealthy()
            except TimeoutError:
                if not self._under_way:
                    await self._probe_twice()

    async def wait_healthy(self) -> None:
        """Probes the server at growing intervals until it is healthy."""
        pause = FIRST_PAUSE
        while not await self._answers():
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._health.wait_healthy()
            pause = min(2 * pause, LAST_PAUSE)

    async def close(self) -> None:
        await self.disconnect("the engine is closed")

    # ── one answer ──

    def _chunks(self, upstream: Upstream, ask: _Ask) -> AsyncGenerator[Chunk, None]:
        """Yields normalized chunks, and the usage of all choices at the end."""
        if self._is_llama_server:
            return self._from_llama_server(upstream, ask)
        if ask.choices == 1:
            return self._normalized(upstream, ask)
        if self._dialect.ignores_n:
            return self._choice_by_choice(upstream, ask, [*range(ask.choices)])
        return self._at_once(upstream, ask)

    @contextmanager
    def _counted(self) -> Generator[None]:
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _at_once(self, upstream: Upstream, ask: _Ask) -> AsyncGenerator[Chunk, None]:
        """Sends one request for all choices, and one more for each choice that the server leaves out."""
        seen: set[int] = set()
        costs: list[Chunk] = []
        async with aclosing(self._normalized(upstream, ask)) as chunks:
            async for chunk in chunks:
                if chunk["choices"]:
                    seen.update(choice["index"] for choice in chunk["choices"])
                    yield chunk
                else:
                    costs.append(chunk)
        if missing := [index for index in range(ask.choices) if index not in seen]:
            log.info("engine.ignores_n", server=self._options.address.shown, next="sends one request per choice")
            self._dialect = replace(self._dialect, ignores_n=True)
            async with aclosing(self._choice_by_choice(upstream, ask, missing)) as chunks:
                async for chunk in chunks:
                    if chunk["choices"]:
                        yield chunk
                    else:
                        costs.append(chunk)
        yield _together(costs)

    async def _choice_by_choice(self, upstream: Upstream, ask: _Ask, indices: list[int]) -> AsyncGenerator[Chunk, None]:
        costs: list[Chunk] = []
        streams = [
            self._normalized(upstream, replace(ask, request=alone)) for alone in per_choice(ask.request, indices)
        ]
        async with aclosing(merged(streams)) as chunks:
            async for at, chunk in chunks:
                if chunk["choices"]:
                    yield {**chunk, "choices": [{**choice, "index": indices[at]} for choice in chunk["choices"]]}
                else:
                    costs.append(chunk)
        yield _together(costs)

    async def _from_llama_server(self, upstream: Upstream, ask: _Ask) -> AsyncGenerator[Chunk, None]:
        asked = ask.request
        correction = AnswerCorrection(asked)
        streams = [
            limited(self._normalized(upstream, replace(ask, request=one)), self._choices)
            for one in request_per_choice(asked)
        ]
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

    async def _normalized(self, upstream: Upstream, ask: _Ask) -> AsyncGenerator[Chunk, None]:
        """Sends one request, and again without fields that the server refuses and the client did not send."""
        dialect = self._dialect
        while True:
            body = dialect.applied(self._body(ask))
            try:
                async with aclosing(self._answer(upstream, body, ask)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (EngineRefused, UpstreamFailed) as refused:
                changed = dialect.without(refused, body, ask.added)
                if changed is None:
                    raise
                dialect = changed
            else:
                if dialect.omitted | dialect.renamed != self._dialect.omitted | self._dialect.renamed:
                    self._learn(dialect)
                return

    async def _answer(self, upstream: Upstream, body: Request, ask: _Ask) -> AsyncGenerator[Chunk, None]:
        answer = Normalizer(body.get("n") or 1, names_tool=ask.names_tool)

        def patience() -> float | None:
            return END_TIMEOUT if answer.done else USAGE_TIMEOUT if answer.finished else None

        try:
            async with aclosing(upstream.answer(body, patience)) as blocks:
                async for events in blocks:
                    for event in events:
                        for chunk in answer.add(event):
                            yield chunk
        except UpstreamLost as lost:
            if not (answer.done or answer.finished):
                self._suspect(upstream, lost)
                raise
        self._heard_from(upstream)
        for chunk in answer.end():
            yield chunk

    def _body(self, ask: _Ask) -> Request:
        body: Request = {**without_nulls(ask.request), "model": self._model, "stream": ask.streamed}
        if not ask.streamed:
            body.pop("stream_options", None)
            return body
        options: dict[str, Any] = body.get("stream_options") or {}
        return {**body, "stream_options": {**options, "include_usage": True}}

    def _learn(self, dialect: ServerDialect) -> None:
        self._dialect = replace(dialect, ignores_n=self._dialect.ignores_n)
        log.info(
            "engine.dialect",
            server=self._options.address.shown,
            omitted=sorted(dialect.omitted),
            renamed=sorted(dialect.renamed),
            next="requests to this server are sent so from now on",
        )

    async def _count_tokens(self, upstream: Upstream, text: str) -> int:
        counts = upstream.count_tokens
        if not self._is_llama_server:
            return await counts(self._model, text)
        # A tokenizer may put a space before a text, but not after a line break.
        return await counts(self._model, "\n" + text) - await counts(self._model, "\n")

    def _connected(self) -> Upstream:
        if self._upstream is None:
            raise EngineError(f"The engine cannot generate: {self._health.reason}.")
        return self._upstream

    def _continued(self, request: Request, prefix: str, prefix_tokens: int) -> Request:
        continued = continue_after(request, prefix, prefix_tokens)
        if self._options.continuation == "vllm":
            return {**continued, "add_generation_prompt": False, "continue_final_message": True}
        return continued

    # ── health: whether the server can be reached, whatever its answers contain ──

    def _suspect(self, upstream: Upstream, lost: UpstreamLost) -> None:
        """Marks a server that is silent or cannot be reached as unhealthy at once; probes one that hung up.

        Without that, the failed jobs would use up their tries on it while the probe waits. `wait_healthy` probes a
        silent server at once, so one that only neglects a request is healthy again within a round trip.
        """
        if upstream is not self._upstream:
            return
        if not lost.hung_up:
            self._health.failed(lost.detail)
        elif self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probe_twice(), name="engine-probe")

    def _heard_from(self, upstream: Upstream) -> None:
        if upstream is self._upstream and not self._health.healthy:
            self._health.recovered()

    async def _answers(self) -> bool:
        upstream = self._upstream
        if upstream is None:
            return False
        if not self._health.healthy:
            try:
                await upstream.models()
            except EngineError:
                return False
            self._heard_from(upstream)
        return self._health.healthy

    async def _probe_twice(self) -> None:
        """Marks the server as unhealthy after two probes without any HTTP answer: a busy server may be slow once."""
        if (upstream := self._upstream) is None:
            return
        for last in (False, True):
            try:
                await upstream.models()
                return
            except UpstreamLost as lost:
                if last and upstream is self._upstream:
                    self._health.failed(lost.detail)
            except EngineError:
                return  # The server answers; calls report what is wrong.

    def _adopt(self, models: list[dict[str, Any]]) -> None:
        """Takes the model's name and context length from the server's list."""
        named = [model for model in models if model.get("id") == self._options.model]
        listed = (named or models or [{}])[0]
        self._model = self._options.model or str(listed.get("id") or "")
        if not self._model:
            raise EngineError("The server lists no models: set model to the one to use.")
        self._is_llama_server = listed.get("owned_by") == "llamacpp"
        self.card = replace(
            self.card,
            id=self._options.model_id or self._model,
            context_length=_context_length(listed),
            modalities=input_modalities(listed),
        )


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request for one server. `added`: the fields of it that the client did not send."""

    request: Request
    added: frozenset[str]
    streamed: bool

    @property
    def choices(self) -> int:
        return self.request.get("n") or 1

    @property
    def names_tool(self) -> bool:
        return isinstance(self.request.get("tool_choice"), dict)


def _added(request: Request) -> frozenset[str]:
    return request.added if isinstance(request, EngineRequest) else frozenset()


def _together(costs: list[Chunk]) -> Chunk:
    """Returns the usage chunk of an answer that took several requests; the prompt counts once."""
    last = costs[-1]
    if len(costs) == 1:
        return last
    prompt = costs[0]["usage"]["prompt_tokens"]
    completion = sum(cost["usage"]["completion_tokens"] for cost in costs)
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**last, "usage": {**last["usage"], **counts}}


async def _answered(upstream: Upstream, model: str | None) -> list[dict[str, Any]]:
    """Returns the server's models when it answers. A server without a list must answer a one-token request."""
    pause = FIRST_PAUSE
    while True:
        with suppress(UpstreamLost):
            listed = await upstream.models()
            if listed.status < 300 or (400 <= listed.status < 500 and listed.status not in KEY_STATUSES):
                return listed.models
            if listed.status not in LOADING_STATUSES and model and await _completes(upstream, model):
                return []
            if listed.status in KEY_STATUSES:
                raise key_refused(listed.status)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


async def _completes(upstream: Upstream, model: str) -> bool:
    """Whether the server answers a request for one token; a refusal is an answer, too."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": False}
    try:
        async with aclosing(upstream.answer(body, lambda: None)) as blocks:
            return [block async for block in blocks] != []
    except (EngineRefused, EngineOverloaded):
        return True
    except UpstreamLost:
        raise
    except EngineError:
        return False


def _context_length(model: dict[str, Any]) -> int | None:
    """Reads vLLM's `max_model_len`, or llama-server's `meta.n_ctx` (per slot) or `meta.n_ctx_train`."""
    meta: dict[str, Any] = model.get("meta") or {}
    return model.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")
