"""Estimates a request's tokens before it runs. Pure."""

from __future__ import annotations

from shared.schema import CallRequest, ChatCompletionRequest, JobRequest

BYTES_PER_TOKEN = 4
"""For English text, about. The JSON around the text is counted too, so estimates are a little high."""

LONGEST_PROMPT = 32_768
"""Tokens. Larger bodies contain images or audio, whose tokens do not follow from their bytes."""

USUAL_ANSWER = 256
"""Tokens of a choice without a limit in the request."""

MOST = 2**53
"""Tokens. All stores count exactly up to here."""


def answer_limit(request: ChatCompletionRequest, context: int | None) -> int | None:
    """Returns the request's token limit of one choice, at most the model's context; None if the request sets none."""
    limit = request.max_completion_tokens or request.max_tokens
    return limit if limit is None or context is None else min(limit, context)


def estimated_tokens(request: JobRequest, size: int, context: int | None = None) -> int:
    """Estimates the tokens of prompt and answer. `size`: bytes of the body; `context`: the model's context in tokens,
    None if unknown. The tokens used replace the estimate at the job's end.
    """
    if isinstance(request, CallRequest):  # Its body is text and token ids only.
        limit = request.answer_tokens if context is None else min(request.answer_tokens, context)
        return max(1, min(size // BYTES_PER_TOKEN + limit * request.answers, MOST))
    answer = answer_limit(request, context) or USUAL_ANSWER
    return min(min(size // BYTES_PER_TOKEN, LONGEST_PROMPT) + answer * (request.n or 1), MOST)
