"""What a request will cost, as far as it can be told before it is run. Pure."""

from __future__ import annotations

from shared.schema import ChatCompletionRequest

BYTES_PER_TOKEN = 4
"""Of English text, about; JSON around it counts a little too much."""

LONGEST_PROMPT = 32_768
"""Tokens. A body that is larger holds pictures or sound, whose tokens its bytes do not tell."""

USUAL_ANSWER = 256
"""Tokens of a choice where the request sets no bound."""

MOST = 2**53
"""Tokens. Every store counts so far exactly."""


def answer_limit(request: ChatCompletionRequest, context: int | None) -> int | None:
    """Tokens that one choice may have: what the request says, and no more than the model's context. None: it does not
    say.
    """
    limit = request.max_completion_tokens or request.max_tokens
    return limit if limit is None or context is None else min(limit, context)


def estimated_tokens(request: ChatCompletionRequest, size: int, context: int | None = None) -> int:
    """Prompt and answer of a request whose body has `size` bytes, for a model with so long a context, where that is
    known. What was used corrects it at the job's end.
    """
    answer = answer_limit(request, context) or USUAL_ANSWER
    return min(min(size // BYTES_PER_TOKEN, LONGEST_PROMPT) + answer * (request.n or 1), MOST)
