"""Continues an answer by the ids of its tokens, through /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog

from shared.errors import EngineRefused
from worker.engines.base import Chunk, Request
from worker.engines.continuation import spent_chunks, whole_usage
from worker.engines.openai.answering import Answering, Ask
from worker.engines.openai.http_client import Upstream
from worker.engines.vllm.record import Recorder
from worker.engines.vllm.resumption import Resumption, completion_request, tokens_left
from worker.stream.fold import TEXTS

log = structlog.get_logger(__name__)

PATH = "/completions"


class OtherTokens(Exception):
    """The server does not continue by these ids."""


class Diverged(Exception):
    """The engine made another text than the one that the client has."""


@dataclass(frozen=True, slots=True)
class Resuming:
    """One answer to continue. `context`: the model's length in tokens. `ask`: makes the ask for a completion."""

    answering: Answering
    upstream: Upstream
    model: str
    context: int | None
    request: Request
    ask: Callable[[Request, str], Ask]

    async def chunks(self, resumption: Resumption) -> AsyncGenerator[Chunk, None]:
        """Yields what follows the text so far. A greedy engine that makes another text goes on after the client's.

        Raises OtherTokens, and nothing has been yielded, where the server has no use for these ids.
        """
        await self._check(resumption)
        if not resumption.greedy:
            resumption = await self._with_tokens(resumption)
        try:
            async with aclosing(self._chunks(resumption)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Diverged:
            log.warning("engine.diverged", repeated=len(resumption.repeated), next="continuing after the text as sent")
            async with aclosing(self._chunks(await self._with_tokens(resumption))) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _check(self, resumption: Resumption) -> None:
        """Workers of one model should serve the same tokenizer, and nothing makes them."""
        if not resumption.made:
            return
        try:
            last = await self.upstream.detokenize(self.model, resumption.prompt[-1:])
        except EngineRefused:
            return
        if not resumption.fits(last):
            raise OtherTokens("its tokenizer has another text for the last token")

    async def _with_tokens(self, resumption: Resumption) -> Resumption:
        if not resumption.repeated:
            return resumption
        return resumption.with_tokens(await self.upstream.tokenize(self.model, resumption.repeated))

    async def _chunks(self, resumption: Resumption) -> AsyncGenerator[Chunk, None]:
        """Raises Diverged before it has yielded any text."""
        left = tokens_left(self.request, resumption, self.context)
        if left is not None and left <= 0:
            for chunk in spent_chunks(self.model, resumption.made, prompt_tokens=resumption.prompt_tokens):
                yield chunk
            return
        ask = self.ask(completion_request(self.request, resumption, self.context), PATH)
        recorder, repeated = Recorder(resumption.record), resumption.repeated
        async with aclosing(_refusable(self.answering.chunks(self.upstream, ask))) as chunks:
            async for raw in chunks:
                chunk = recorder.recorded(raw)
                if not chunk["choices"]:
                    chunk = {**chunk, "usage": whole_usage(chunk["usage"], resumption.made)}
                elif repeated:
                    chunk, repeated = without_repeated(repeated, chunk)
                yield chunk


async def _refusable(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    """Raises OtherTokens where the server refuses the completion, although it took the chat."""
    begun = False
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                begun = True
                yield chunk
    except EngineRefused as refused:
        if begun:
            raise
        raise OtherTokens(refused.message) from refused


def without_repeated(repeated: str, chunk: Chunk) -> tuple[Chunk, str]:
    """Returns the chunk without text that the client has, and what of that text is still to come."""
    choices: list[dict[str, Any]] = []
    for part in chunk["choices"]:
        text = part["delta"].get("content") or ""
        common = min(len(text), len(repeated))
        if text[:common] != repeated[:common] or (part["finish_reason"] and len(repeated) > common):
            raise Diverged
        repeated = repeated[common:]
        delta = {name: value for name, value in part["delta"].items() if name not in TEXTS}
        choices.append({**part, "delta": {**delta, "content": text[common:]} if text[common:] else delta})
    return {**chunk, "choices": choices}, repeated
