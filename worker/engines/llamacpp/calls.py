"""Translates calls for llama.cpp's server, whose endpoints other than chat differ from OpenAI's and vLLM's. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from shared.errors import EngineRefused
from shared.job import Api
from worker.engines.base import Answer, Request

TOO_LARGE = re.compile(r"input \(\d+ tokens\) is (too large|larger than)")
IGNORED = ("best_of", "echo", "suffix")
"""Fields of completions that llama.cpp's server ignores."""


def request_for(api: Api, request: Request) -> Request:
    """Returns the request as llama.cpp's server reads it. Raises EngineRefused for what it would ignore."""
    match api:
        case "tokenize":
            special = request.get("add_special_tokens")
            return {
                "content": request["prompt"],
                "add_special": special is None or special,
                "with_pieces": bool(request.get("return_token_strs")),
            }
        case "detokenize":
            return {"tokens": request["tokens"]}
        case "completions":
            for name in IGNORED:
                if request.get(name):
                    raise EngineRefused(f"llama.cpp's server has no '{name}'.", param=name)
            return request
        case "embeddings":
            if request.get("dimensions"):
                raise EngineRefused("llama.cpp's server cannot shorten embeddings.", param="dimensions")
            return request
        case _:
            return request


def answer_of(api: Api, request: Request, found: Answer) -> Answer:
    """Returns llama.cpp's answer in the form of OpenAI's and vLLM's."""
    match api:
        case "tokenize":
            return tokens_of(found) if request.get("return_token_strs") else found
        case "detokenize":
            return {"prompt": found["content"]}
        case "completions":
            asked = request.get("logprobs")
            return {**found, "choices": [with_logprobs(choice, asked) for choice in found["choices"]]}
        case _:
            return found


def tokens_of(found: Answer) -> Answer:
    pairs = found["tokens"]
    pieces = [piece if isinstance(piece := pair["piece"], str) else "\ufffd" for pair in pairs]
    return {"tokens": [pair["id"] for pair in pairs], "token_strs": pieces}


def with_logprobs(choice: Mapping[str, Any], asked: int | None) -> dict[str, Any]:
    """Returns a choice whose log probabilities have the old form. `asked`: how many a token has beside its own."""
    given: dict[str, Any] = choice.get("logprobs") or {}
    content: list[dict[str, Any]] | None = given.get("content")
    if content is None:
        return {**choice, "logprobs": None}
    offsets, at = list[int](), 0
    for token in content:
        offsets.append(at)
        at += len(token["token"])
    top = [top_of(token) for token in content]
    logprobs = {
        "tokens": [token["token"] for token in content],
        "token_logprobs": [token["logprob"] for token in content],
        "top_logprobs": top if asked else None,
        "text_offset": offsets,
    }
    return {**choice, "logprobs": logprobs}


def top_of(token: Mapping[str, Any]) -> dict[str, float]:
    others: list[dict[str, Any]] = token.get("top_logprobs") or []
    return {each["token"]: each["logprob"] for each in others}


def refusal_of(said: Mapping[str, Any]) -> EngineRefused | None:
    """Returns the refusal in an error that llama.cpp's server sends as its own failure, else None."""
    message = str(said.get("message", ""))
    if said.get("type") == "not_supported_error" or said.get("code") == 501:
        return EngineRefused(f"The model cannot do this: {message}", code="unsupported_endpoint", param="model")
    if TOO_LARGE.search(message):
        return EngineRefused(f"A text is too long for the model: {message}", code="context_length_exceeded")
    return None
