"""How an answer is continued from the ids of its tokens: what the engine gets, and where it is cut. Pure.

vLLM's /v1/completions takes a prompt of token ids. Given those of the prompt and of the answer so far it makes the ids
that it would have made next. The text has to join as well. vLLM holds text back: a character that is not whole, and,
for the length of the longest stop string, what may be the beginning of one. So the answer is cut behind the last token
whose text is whole and was sent. The few tokens behind the cut are made again:

- A greedy request makes the same ones. What the client has of them is compared and dropped.
- Others would make different ones. There the text that the client has of them is tokenized and given to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from worker.engines.base import Request
from worker.engines.continuation import LIMITS
from worker.engines.openai.request_fields import is_greedy
from worker.engines.vllm.record import TokenRecord, decode, encode_piece
from worker.stream.resume import is_constrained

SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "logit_bias", "ignore_eos"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty", "allowed_token_ids"),
        *("bad_words", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output"),
        *("user", "cache_salt", "priority", "stream", "stream_options"),
    }
)
"""Fields that mean the same in a completion."""

OF_PROMPT = frozenset(
    {
        *("messages", "chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
        *("add_special_tokens", "documents", "reasoning_effort", "include_reasoning", "tool_choice"),
        *("truncate_prompt_tokens", "truncation_side", "parallel_tool_calls"),
    }
)
"""Fields whose effect is in the prompt's ids already, or that only mean something beside others that are not here."""

WITHOUT_EFFECT = frozenset(
    {
        *("model", "n", "logprobs", "top_logprobs", "tools", "functions", "function_call", "response_format"),
        *("metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "max_tokens"),
        *("max_completion_tokens", "min_tokens", "verbosity"),
    }
)
"""Fields that are set anew, say nothing in a plain request, or that vLLM ignores."""

LOST = "\ufffd"
"""What a tokenizer shows of a character that is not whole."""

COUNT_TOKENS_MADE = ("presence_penalty", "frequency_penalty")
"""Fields by which vLLM counts the tokens of the answer: in a completion those made before are part of the prompt."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """`prompt`: the ids that the engine gets, `made` of which belong to the answer. `repeated`: what the client has of
    the text that follows them, `before`: the text that comes before that. `record`: the token record up to there.
    `greedy`: the engine makes `repeated` again.
    """

    prompt: list[int]
    made: int
    before: str
    repeated: str
    record: bytes
    greedy: bool

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt) - self.made

    def fits(self, last: str) -> bool:
        """Whether the text of the last token ends the text so far: another tokenizer has another text for its id."""
        return self.before.endswith(last.rpartition(LOST)[2].lstrip())

    def with_tokens(self, ids: Sequence[int]) -> Resumption:
        """Returns the resumption with the tokens of `repeated` as part of the prompt."""
        record = self.record + encode_piece(ids, 0)
        return replace(self, prompt=[*self.prompt, *ids], made=self.made + len(ids), repeated="", record=record)


def counts_tokens_made(request: Mapping[str, Any]) -> bool:
    return any(request.get(name) for name in COUNT_TOKENS_MADE)


def can_be_recorded(request: Mapping[str, Any]) -> bool:
    """Whether an answer to the request can be continued by its ids: plain text for a prompt of plain text, and no field
    that a completion lacks. A greedy answer whose penalties count its tokens is replayed: that is exact.
    """
    known = request.keys() <= SAMPLING | OF_PROMPT | WITHOUT_EFFECT
    return (
        known
        and not is_constrained(request)
        and all(map(_is_text, request.get("messages") or ()))
        and not (is_greedy(request) and counts_tokens_made(request))
    )


def _is_text(message: Any) -> bool:
    content = message.get("content")
    if isinstance(content, list):
        return all(cast(dict[str, Any], part).get("type") == "text" for part in cast(list[Any], content))
    return content is None or isinstance(content, str)


def resumption_of(request: Request, text: str, progress: bytes) -> Resumption | None:
    """Returns how to continue `text`; None where the record does not belong to it, or the request cannot be continued
    by ids.
    """
    if not can_be_recorded(request) or (record := decode(progress)) is None or record.sent != len(text):
        return None
    greedy = is_greedy(request)
    if not greedy and _stop_in_output(request):
        return None  # A stop string may begin in what was sent, and only tokens that are made again are searched.
    kept, cut = _cut(record, request, len(text))
    ids = [each for piece in record.pieces[:kept] for each in piece.ids]
    before, repeated = text[:cut], text[cut:]
    seam = encode_piece((), (cut if greedy else len(text)) - (record.pieces[kept - 1].sent if kept else 0))
    return Resumption([*record.prompt, *ids], len(ids), before, repeated, record.encoded(kept) + seam, greedy)


def _cut(record: TokenRecord, request: Request, size: int) -> tuple[int, int]:
    """Returns the number of pieces to keep, and where their text ends in what was sent."""
    held_back, needed = _held_back(request), _searched_again(request)
    for kept in range(len(record.pieces), 0, -1):
        piece = record.pieces[kept - 1]
        before = record.pieces[kept - 2].sent if kept > 1 else 0
        end = piece.sent + held_back
        if piece.is_whole and piece.sent > before and end <= size - needed:
            return kept, end
    return 0, 0


def _stops(request: Mapping[str, Any]) -> list[str]:
    stop: str | list[str] = request.get("stop") or []
    return [stop] if isinstance(stop, str) else stop


def _stop_in_output(request: Mapping[str, Any]) -> bool:
    return bool(_stops(request)) and bool(request.get("include_stop_str_in_output"))


def _held_back(request: Mapping[str, Any]) -> int:
    """Characters by which the text that was sent is shorter than that of the tokens."""
    if _stop_in_output(request):
        return 0
    return max(1, *map(len, _stops(request)), 1) - 1


def _searched_again(request: Mapping[str, Any]) -> int:
    """Characters before the end of what was sent in which a stop string may begin."""
    return max(1, *map(len, _stops(request)), 1) - 1 if _stop_in_output(request) else 0


def completion_request(request: Request, resumption: Resumption, context: int | None) -> Request:
    """Returns the request to /v1/completions."""
    body = {name: value for name, value in request.items() if name in SAMPLING and value is not None}
    body |= {"prompt": resumption.prompt, "max_tokens": tokens_left(request, resumption, context)}
    if request.get("min_tokens"):
        body["min_tokens"] = max(0, request["min_tokens"] - resumption.made)
    return body


def tokens_left(request: Request, resumption: Resumption, context: int | None) -> int | None:
    """Tokens that the rest of the answer may have: a completion without a limit would have sixteen."""
    limit = next((request[name] for name in LIMITS if request.get(name)), None)
    if limit is not None:
        return limit - resumption.made
    return None if context is None else context - len(resumption.prompt)
