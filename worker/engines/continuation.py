"""Builds requests that continue a partial answer; `max_tokens` and `usage` count the whole answer. Pure."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from worker.engines.base import Chunk, Request

LIMITS = ("max_completion_tokens", "max_tokens")


def is_spent(request: Request, prefix_tokens: int) -> bool:
    """Whether the partial answer has as many tokens as the request allows."""
    if not prefix_tokens:
        return False
    limit = next((request[key] for key in LIMITS if request.get(key)), None)
    return limit is not None and prefix_tokens >= limit


def continue_after(request: Request, prefix: str, prefix_tokens: int) -> Request:
    """Returns the request that continues `prefix` as the start of the assistant's message."""
    messages = list(request["messages"])
    last = messages[-1]
    # A client may have begun the answer itself, and engines refuse two assistant messages in a row.
    if last.get("role") == "assistant" and isinstance(last.get("content"), str):
        messages[-1] = {**last, "content": last["content"] + prefix}
    else:
        messages.append({"role": "assistant", "content": prefix})
    limits = {key: request[key] - prefix_tokens for key in LIMITS if request.get(key)}
    return {**request, **limits, "messages": messages}


def whole_usage(usage: dict[str, Any], prefix_tokens: int) -> dict[str, Any]:
    """Returns the usage of the whole answer: the engine counted the prefix as part of its prompt."""
    if not prefix_tokens:
        return usage
    whole = usage | {
        "prompt_tokens": usage["prompt_tokens"] - prefix_tokens,
        "completion_tokens": usage["completion_tokens"] + prefix_tokens,
    }
    whole.pop("prompt_tokens_details", None)  # They count the prefix, too.
    return whole


def spent_chunks(model: str, prefix_tokens: int, *, prompt_tokens: int = 0) -> Iterator[Chunk]:
    """Yields the end of an answer that has no tokens left. The prompt is not evaluated: 0 where its size is unknown."""
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }
    yield {**head, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]}
    total = prompt_tokens + prefix_tokens
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": prefix_tokens, "total_tokens": total}
    yield {**head, "choices": [], "usage": usage}
