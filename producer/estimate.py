"""What a request will cost, as far as it can be told before it is run. Pure."""

from __future__ import annotations

from shared.schema import ChatCompletionRequest

BYTES_PER_TOKEN = 4
"""Of English text, about; JSON around it counts a little too much."""

LONGEST_PROMPT = 32_768
"""Tokens. A body that is larger holds pictures or sound, whose tokens its bytes do not tell."""

USUAL_ANSWER = 256
"""Tokens of a choice where the request sets no bound."""


def estimated_tokens(request: ChatCompletionRequest, size: int) -> int:
    """Prompt and answer of a request whose body has `size` bytes. What was used corrects it at the job's end."""
    answer = request.max_completion_tokens or request.max_tokens or USUAL_ANSWER
    return min(size // BYTES_PER_TOKEN, LONGEST_PROMPT) + answer * (request.n or 1)
