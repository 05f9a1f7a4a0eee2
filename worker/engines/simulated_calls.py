"""The simulated engine's answers to the endpoints other than chat: determined by the request, and of no meaning."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from typing import Any

from shared.job import Api
from shared.schema.base import LIST, LISTS
from shared.schema.calls import kind_of_input, texts_of
from worker.engines.base import Answer, Request

DIMENSIONS = 64
"""Of an embedding whose request names none."""


def simulated_answer(api: Api, request: Request) -> Answer:
    return ANSWERS[api](request)


def _embeddings(request: Request) -> Answer:
    inputs = inputs_of(request["input"])
    size: int = request.get("dimensions") or DIMENSIONS
    data = [
        {"object": "embedding", "index": at, "embedding": unit_vector(each, size)} for at, each in enumerate(inputs)
    ]
    return {"object": "list", "data": data, "usage": usage(sum(map(tokens_of, inputs)))}


def inputs_of(given: Any) -> list[Any]:
    return given if kind_of_input(given) in (LIST, LISTS) else [given]


def unit_vector(given: str | list[int], size: int) -> list[float]:
    """Returns a vector of length 1, which only depends on the text, or on its token ids."""
    seed = repr(given).encode()
    blocks = (hashlib.sha256(seed + struct.pack("<I", number)).digest() for number in range(-(-size // 8)))
    numbers = [value / 2**31 - 1 for block in blocks for value in struct.unpack("<8I", block)][:size]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers]


def tokens_of(given: str | list[int]) -> int:
    return max(1, len(given.split())) if isinstance(given, str) else len(given)


def _completions(request: Request) -> Answer:
    prompts, choices = inputs_of(request["prompt"]), request.get("n") or 1
    limit: int = request.get("max_tokens") or 0
    texts = ["".join(f" t{at % 1000:03d}" for at in range(limit)) for _ in range(len(prompts) * choices)]
    rows = [
        {"index": at, "text": said(prompts[at // choices], request) + text, "logprobs": None, "finish_reason": "length"}
        for at, text in enumerate(texts)
    ]
    read = sum(map(tokens_of, prompts))
    return {"object": "text_completion", "choices": rows, "usage": usage(read, limit * len(rows))}


def said(prompt: str | list[int], request: Request) -> str:
    """Returns the prompt, where the request asks for it before the answer."""
    if not request.get("echo"):
        return ""
    return prompt if isinstance(prompt, str) else text_of(prompt)


def _rerank(request: Request) -> Answer:
    documents: list[str] = request["documents"]
    results = [
        {"index": at, "relevance_score": overlap(request["query"], each), "document": {"text": each}}
        for at, each in enumerate(documents)
    ]
    read = tokens_of(request["query"]) * len(documents) + sum(map(tokens_of, documents))
    return {"results": results, "usage": usage(read)}


def _score(request: Request) -> Answer:
    second = texts_of(request["text_2"])
    first = [*islice(cycle(texts_of(request["text_1"])), len(second))]
    data = [
        {"object": "score", "index": at, "score": overlap(*pair)}
        for at, pair in enumerate(zip(first, second, strict=True))
    ]
    return {"object": "list", "data": data, "usage": usage(sum(map(tokens_of, [*first, *second])))}


def overlap(first: str, second: str) -> float:
    """Returns the share of the words of both texts that they have in common."""
    words, others = {*first.lower().split()}, {*second.lower().split()}
    return len(words & others) / (len(words | others) or 1)


def _tokenize(request: Request) -> Answer:
    """A token is a character: its id is the character's number, so that detokenize gives the text back."""
    text: str = request["prompt"]
    return {"tokens": [ord(each) for each in text], "token_strs": [*text], "max_model_len": None}


def _detokenize(request: Request) -> Answer:
    return {"prompt": text_of(request["tokens"])}


def text_of(tokens: list[int]) -> str:
    return "".join(chr(token) if token < 0xD800 or 0xE000 <= token < 0x110000 else "\ufffd" for token in tokens)


def usage(read: int, written: int = 0) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


ANSWERS: Mapping[Api, Callable[[Request], Answer]] = {
    "completions": _completions,
    "detokenize": _detokenize,
    "embeddings": _embeddings,
    "rerank": _rerank,
    "score": _score,
    "tokenize": _tokenize,
}
