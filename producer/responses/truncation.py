"""`truncation: "auto"`: leaves out the oldest turns of a conversation that does not fit into the model's context. Pure.

Tokens are estimated: a conversation may still be too long for the engine, which then refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from producer.admission.estimate import BYTES_PER_TOKEN, USUAL_ANSWER

PER_MEDIA = 1000
"""Tokens of an image, a recording or a file, whose bytes say nothing about them."""


def turns_to_drop(messages: Sequence[Mapping[str, Any]], *, kept: int, context: int, answer: int | None) -> int:
    """Returns how many messages after the first `kept` to leave out, so that the rest and the answer fit. The last
    turn always stays. `context`: the model's, in tokens; `answer`: the limit of the answer, None without one.
    """
    room = context - (USUAL_ANSWER if answer is None else min(answer, context // 2))
    sizes = [tokens_of(message) for message in messages]
    starts = [at for at in range(kept + 1, len(messages)) if messages[at]["role"] in ("user", "system", "developer")]
    dropped, total = 0, sum(sizes)
    for start in starts:
        if total <= room:
            break
        total -= sum(sizes[kept + dropped : start])
        dropped = start - kept
    return dropped


def tokens_of(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    parts = cast(list[dict[str, Any]], content) if isinstance(content, list) else [{"text": content or ""}]
    texts = sum(len(part["text"].encode()) for part in parts if "text" in part)
    media = sum("text" not in part for part in parts)
    calls = len(orjson.dumps(message.get("tool_calls") or ""))
    return (texts + calls) // BYTES_PER_TOKEN + PER_MEDIA * media
