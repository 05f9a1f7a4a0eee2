"""Maps the finish reasons of many servers to OpenAI's five."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
FAILED = "failed"
"""The server aborted the answer, so the attempt has failed, even if text was sent."""

WORDS: Mapping[str, tuple[str, ...]] = {
    "stop": (
        *("stop", "eos", "eos_token", "end", "end_turn", "stop_sequence", "stop_token", "stop_str", "pause_turn"),
        *("complete", "completed", "finish", "finished", "done", "normal", "user_stop", "other", "unknown"),
    ),
    "length": (
        *("length", "max_tokens", "max_token", "max_length", "max_output_tokens", "max_new_tokens", "model_length"),
        *("context_length", "context_length_exceeded", "model_context_window_exceeded", "token_limit", "limit"),
        *("error_limit", "incomplete"),
    ),
    "content_filter": (
        *("content_filter", "content_filtered", "filter", "safety", "recitation", "blocklist", "prohibited_content"),
        *("spii", "image_safety", "language", "sensitive", "guardrail_intervened", "refusal", "moderation", "blocked"),
        *("error_toxic", "model_armor", "escalation"),
    ),
    "tool_calls": ("tool_calls", "tool_call", "tool_use", "tool", "tools", "function_calls"),
    "function_call": ("function_call",),
    FAILED: (
        *("abort", "aborted", "error", "failed", "failure", "cancel", "cancelled", "canceled", "timeout"),
        *("insufficient_system_resource", "network_error", "server_error", "internal_error", "preempted", "killed"),
        *("malformed_function_call", "unexpected_tool_call", "error_finish", "load_shed"),
        *("malformed_response", "missing_thought_signature"),
    ),
}
"""In lower case, with underscores."""

PARTS = (
    *((part, FAILED) for part in ("error", "abort", "fail", "cancel", "timeout", "malformed", "resource", "network")),
    *((part, "length") for part in ("length", "max_tok", "limit", "window")),
    *((part, "content_filter") for part in ("safety", "filter", "prohibit", "moderat", "block", "sensitive")),
    *((part, "tool_calls") for part in ("tool", "function")),
)
"""The meanings of words that WORDS does not list, by a part of the word; the first match counts."""

UNSAID = frozenset({"", "null", "none", "undefined", "nan", "{}", "finish_reason_unspecified", "unspecified"})

_MEANINGS = {word: meaning for meaning, words in WORDS.items() for word in words}


def meaning_of(reason: Any) -> str | None:
    """Returns one of OpenAI's reasons, FAILED, or None if the answer has not ended.

    For an object, its `type` or `reason` counts (SGLang sends `{"type": "abort"}`). An unknown word means `stop`.
    """
    if isinstance(reason, dict):
        named = cast(dict[str, Any], reason)
        reason = next((named[key] for key in ("type", "reason", "finish_reason") if named.get(key)), "stop")
    if isinstance(reason, list):
        reason = next(iter(cast(list[Any], reason)), None)
    if reason is None or reason is False:
        return None
    word = str(reason).rpartition(".")[2].strip().lower().replace("-", "_").replace(" ", "_")
    if word in UNSAID:
        return None
    if word in _MEANINGS:
        return _MEANINGS[word]
    return next((meaning for part, meaning in PARTS if part in word), "stop")
