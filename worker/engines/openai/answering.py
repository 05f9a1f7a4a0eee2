"""Gets one answer from a server, with one request or several, and learns the server's dialect from its refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import structlog

from shared.errors import EngineRefused
from worker.engines.base import Chunk, EngineRequest, Request
from worker.engines.llamacpp.dialect import AnswerCorrection, error_from, refusal, request_per_choice
from worker.engines.merging import limited, merged
from worker.engines.openai.failures import UpstreamFailed
from worker.engines.openai.http_client import Upstream, UpstreamLost
from worker.engines.openai.normalizing.normalizer import Normalizer
from worker.engines.openai.request_fields import ServerDialect, is_greedy, per_choice, without_nulls

log = structlog.get_logger(__name__)

USAGE_TIMEOUT = 10.0
"""Seconds to wait for the usage after every choice has ended."""

END_TIMEOUT = 1.0
"""Seconds to wait for the end of the response after `[DONE]`."""


CHAT = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for one server. `model`: the server's name of the model; `added`: fields that the client did
    not send.
    """

    request: Request
    model: str
    added: frozenset[str]
    streamed: bool
    path: str = CHAT
    traceparent: str | None = None

    @classmethod
    def of(
        cls,
        request: Request,
        model: str,
        *,
        of_client: Request | None = None,
        adds: Request | None = None,
        streamed: bool = True,
        path: str = CHAT,
    ) -> Ask:
        """`of_client`: the client's request, if `request` is a changed copy of it. `adds`: added fields."""
        source = request if of_client is None else of_client
        source = source if isinstance(source, EngineRequest) else EngineRequest()
        adds = adds or {}
        added = source.added | adds.keys()
        return cls({**request, **adds}, model, added, streamed, path, source.traceparent)

    @property
    def choices(self) -> int:
        return self.request.get("n") or 1

    @property
    def names_tool(self) -> bool:
        return isinstance(self.request.get("tool_choice"), dict)

    def takes_ids(self, body: Request) -> bool:
        """Whether `body` asks for the ids of tokens, and the client did not."""
        return "return_token_ids" in self.added and "return_token_ids" in body

    def body(self) -> Request:
        body: Request = {**without_nulls(self.request), "model": self.model, "stream": self.streamed}
        if not self.streamed:
            body.pop("stream_options", None)
            return body
        options: dict[str, Any] = body.get("stream_options") or {}
        return {**body, "stream_options": {**options, "include_usage": True}}


class Answering:
    """`choices`: how many choices a llama-server gets at the same time. `on_lost` is called when a connection breaks
    before the answer's end, `on_answered` after each complete answer.
    """

    def __init__(
        self,
        server: str,
        dialect: ServerDialect,
        *,
        choices: int,
        on_lost: Callable[[Upstream, UpstreamLost], None],
        on_answered: Callable[[Upstream], None],
    ) -> None:
        self.is_llama_server = False
        self.is_vllm = False
        self._server = server
        self._dialect = dialect
        # Choices beyond the slots wait here: in llama-server their wait would look like a stall.
        self._choices = asyncio.Semaphore(choices)
        self._on_lost = on_lost
        self._on_answered = on_answered

    def chunks(self, upstream: Upstream, ask: Ask) -> AsyncGenerator[Chunk, None]:
        """Yields normalized chunks, and the usage of all choices at the end."""
        if self.is_llama_server:
            return self._from_llama_server(upstream, ask)
        if ask.choices == 1:
            return self._normalized(upstream, ask)
        if self._dialect.ignores_n or (self.is_vllm and is_greedy(ask.request)):
            # vLLM refuses several greedy choices, which would be the same ones.
            return self._choice_by_choice(upstream, ask, [*range(ask.choices)])
        return self._at_once(upstream, ask)

    async def _at_once(self, upstream: Upstream, ask: Ask) -> AsyncGenerator[Chunk, None]:
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
            log.info("engine.ignores_n", server=self._server, next="sends one request per choice")
            self._dialect = replace(self._dialect, ignores_n=True)
            async with aclosing(self._choice_by_choice(upstream, ask, missing)) as chunks:
                async for chunk in chunks:
                    if chunk["choices"]:
                        yield chunk
                    else:
                        costs.append(chunk)
        yield _together(costs)

    async def _choice_by_choice(self, upstream: Upstream, ask: Ask, indices: list[int]) -> AsyncGenerator[Chunk, None]:
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

    async def _from_llama_server(self, upstream: Upstream, ask: Ask) -> AsyncGenerator[Chunk, None]:
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

    async def _normalized(self, upstream: Upstream, ask: Ask) -> AsyncGenerator[Chunk, None]:
        """Sends one request, and again without fields that the server refuses and the client did not send."""
        dialect = self._dialect
        while True:
            body = dialect.applied(ask.body())
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

    async def _answer(self, upstream: Upstream, body: Request, ask: Ask) -> AsyncGenerator[Chunk, None]:
        answer = Normalizer(body.get("n") or 1, names_tool=ask.names_tool, takes_ids=ask.takes_ids(body))

        def patience() -> float | None:
            return END_TIMEOUT if answer.done else USAGE_TIMEOUT if answer.finished else None

        try:
            async with aclosing(upstream.answer(body, patience, path=ask.path, traceparent=ask.traceparent)) as blocks:
                async for events in blocks:
                    for event in events:
                        for chunk in answer.add(event):
                            yield chunk
        except UpstreamLost as lost:
            if not (answer.done or answer.finished):
                self._on_lost(upstream, lost)
                raise
        self._on_answered(upstream)
        for chunk in answer.end():
            yield chunk

    def _learn(self, dialect: ServerDialect) -> None:
        self._dialect = replace(dialect, ignores_n=self._dialect.ignores_n)
        log.info(
            "engine.dialect",
            server=self._server,
            omitted=sorted(dialect.omitted),
            renamed=sorted(dialect.renamed),
            next="later requests to this server are changed in the same way",
        )


def _together(costs: list[Chunk]) -> Chunk:
    """Returns the usage chunk of an answer that took several requests; the prompt counts once."""
    last = costs[-1]
    if len(costs) == 1:
        return last
    prompt = costs[0]["usage"]["prompt_tokens"]
    completion = sum(cost["usage"]["completion_tokens"] for cost in costs)
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**last, "usage": {**last["usage"], **counts}}
