"""Calls a server's endpoints other than chat, each of which answers with one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from shared.errors import EngineRefused
from shared.job import Api
from worker.engines.base import Answer
from worker.engines.llamacpp import calls as llama
from worker.engines.openai import failures
from worker.engines.openai.answering import Ask
from worker.engines.openai.http_client import Upstream
from worker.engines.openai.normalizing.json_text import NotJson, decode

PATHS: Mapping[Api, str] = {
    "completions": "/completions",
    "detokenize": "/detokenize",
    "embeddings": "/embeddings",
    "rerank": "/rerank",
    "score": "/score",
    "tokenize": "/tokenize",
}
BESIDE_V1 = frozenset[Api]({"tokenize", "detokenize"})
"""Endpoints whose path has no /v1."""


PRIORITIZED = frozenset[Api]({"completions", "embeddings"})
"""Endpoints whose requests vLLM schedules by priority, and whose prompts it caches."""


async def call(upstream: Upstream, api: Api, ask: Ask, *, llama_server: bool) -> Answer:
    """Returns the server's answer. A server that refuses a field that the client did not send is asked again without
    it. Raises EngineRefused, EngineError.
    """
    try:
        return await _asked_once(upstream, api, ask, llama_server=llama_server)
    except EngineRefused as refused:
        unwanted = {name for name in ask.added if name == refused.param or name in refused.message}
        if not unwanted & ask.request.keys():
            raise
        kept = {key: value for key, value in ask.request.items() if key not in unwanted}
        return await _asked_once(upstream, api, replace(ask, request=kept), llama_server=llama_server)


async def _asked_once(upstream: Upstream, api: Api, ask: Ask, *, llama_server: bool) -> Answer:
    body = {**ask.request, "model": ask.model}
    if llama_server:
        body = llama.request_for(api, body)
    try:
        found = _object(await _received(upstream, body, api, ask.traceparent))
    except failures.UpstreamFailed as failed:
        refused = llama.refusal_of(failed.said) if llama_server else None
        raise refused or failed from failed
    return llama.answer_of(api, ask.request, found) if llama_server else found


async def _received(upstream: Upstream, body: Mapping[str, Any], api: Api, traceparent: str | None) -> bytes:
    received: list[bytes] = []
    try:
        blocks = upstream.answer(body, lambda: None, PATHS[api], traceparent, beside_v1=api in BESIDE_V1)
        async with aclosing(blocks):
            async for events in blocks:
                received += events
    except EngineRefused as refused:
        if refused.message in ("Not Found", "Method Not Allowed", "File Not Found"):
            raise not_served(api) from refused
        raise
    if len(received) != 1:
        raise failures.malformed(f"it sent {len(received)} JSON values instead of one", b"".join(received[:2]))
    return received[0]


def _object(data: bytes) -> Answer:
    try:
        values, _ = decode(data)
    except NotJson:
        raise failures.malformed("its answer is not JSON", data) from None
    if len(values) != 1 or not isinstance(values[0], dict):
        raise failures.malformed("its answer is not a JSON object", data)
    found = cast(Answer, values[0])
    if found.get("error") or found.get("object") == "error":
        raise failures.in_band(found)
    return found


def not_served(api: Api) -> EngineRefused:
    return EngineRefused(f"The model's engine does not serve {api}.", code="unsupported_endpoint", param="model")
