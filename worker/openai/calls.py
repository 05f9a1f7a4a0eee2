"""Translates the requests and answers of the endpoints other than chat. Pure."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from shared.errors import EngineError
from shared.job import Api, Job
from shared.schema import NOT_FOR_ENGINES
from shared.schema.base import LIST, LISTS
from shared.schema.calls import OPENAI_MAX_TOKENS, kind_of_input, texts_of
from worker.engines.base import Answer, EngineRequest, Request
from worker.openai.translate import finish_reason


def call_request(asked: Mapping[str, Any], job: Job) -> EngineRequest:
    """Returns the request for the engine: without Ignite's fields and without nulls, with the model's id in place of an
    alias. OpenAI's limit of a completion is set, where the request has none: engines have others.
    """
    request = {key: value for key, value in asked.items() if key not in NOT_FOR_ENGINES and value is not None}
    request["model"] = job.model
    if job.api == "completions":
        request.setdefault("max_tokens", OPENAI_MAX_TOKENS)
    if job.api == "rerank":
        request["documents"] = [each if isinstance(each, str) else each["text"] for each in request["documents"]]
    found = EngineRequest(request)
    found.tier = str(job.tier)
    return found


def answer(job: Job, request: Request, found: Answer) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns the answer for the client, and what was used. Raises EngineError if the engine's answer has another form
    than the endpoint's.
    """
    try:
        body = _ANSWERS[job.api](job, request, found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
        raise EngineError(
            f"The engine's answer has not the form of an answer of {job.api}: {type(error).__name__}: {error}"
        ) from error
    return body, _counts(found)


def _embeddings(job: Job, request: Request, found: Answer) -> dict[str, Any]:
    wanted = request.get("encoding_format") or "float"
    rows = _in_order(found["data"], inputs_of(request["input"]))
    data = [
        {"object": "embedding", "index": at, "embedding": encoded(row["embedding"], wanted)}
        for at, row in enumerate(rows)
    ]
    return {"object": "list", "data": data, "model": job.model, "usage": _input_usage(found)}


def inputs_of(given: Any) -> int:
    return len(given) if kind_of_input(given) in (LIST, LISTS) else 1


def encoded(embedding: Any, wanted: str) -> list[float] | str:
    """Returns the embedding as the client wants it; some servers know only one of the forms."""
    if isinstance(embedding, str):
        data = base64.b64decode(embedding, validate=True)
        numbers = struct.unpack(f"<{len(data) // 4}f", data)
        return embedding if wanted == "base64" else _finite(numbers)
    numbers = _finite(embedding)
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode() if wanted == "base64" else numbers


def _finite(numbers: Sequence[Any]) -> list[float]:
    floats = [float(each) for each in numbers]
    if not floats or not all(map(math.isfinite, floats)):
        raise ValueError("an embedding is empty, or has a number that is not finite")
    return floats


def _completions(job: Job, request: Request, found: Answer) -> dict[str, Any]:
    prompts = inputs_of(request["prompt"])
    choices = [
        {
            "index": _whole(choice["index"]),
            "text": _text(choice["text"]),
            "logprobs": choice.get("logprobs"),
            "finish_reason": finish_reason(choice.get("finish_reason")),
        }
        for choice in found["choices"]
    ]
    rows = _in_order(choices, prompts * (request.get("n") or 1))
    return _head(job) | {"object": "text_completion", "choices": rows, "usage": found.get("usage") and _counts(found)}


def _rerank(job: Job, request: Request, found: Answer) -> dict[str, Any]:
    documents: list[str] = request["documents"]
    scores = {
        _whole(row["index"]): float(row["relevance_score"]) for row in cast(list[dict[str, Any]], found["results"])
    }
    best = sorted(scores, key=lambda at: -scores[at])
    most = min(request.get("top_n") or len(documents), len(documents))
    if len(best) < most or not all(0 <= at < len(documents) for at in best):
        raise ValueError(f"it ranks {len(best)} of {len(documents)} documents")
    results: list[dict[str, Any]] = [{"index": at, "relevance_score": scores[at]} for at in best[:most]]
    if request.get("return_documents") is not False:
        results = [{**result, "document": {"text": documents[result["index"]]}} for result in results]
    return {"id": job.id, "model": job.model, "usage": _input_usage(found), "results": results}


def _score(job: Job, request: Request, found: Answer) -> dict[str, Any]:
    pairs = len(texts_of(request["text_2"]))
    rows = _in_order(found["data"], pairs)
    data = [{"object": "score", "index": at, "score": float(row["score"])} for at, row in enumerate(rows)]
    return _head(job) | {"object": "list", "data": data, "usage": _input_usage(found)}


def _tokenize(job: Job, request: Request, found: Answer) -> dict[str, Any]:
    tokens = [_whole(token) for token in found["tokens"]]
    length = found.get("max_model_len")
    body: dict[str, Any] = {"count": len(tokens), "max_model_len": length, "tokens": tokens}
    if request.get("return_token_strs"):
        body["token_strs"] = [_text(piece) for piece in found["token_strs"]]
    return body


def _detokenize(job: Job, request: Request, found: Answer) -> dict[str, Any]:
    return {"prompt": _text(found["prompt"])}


_ANSWERS: Mapping[Api, Callable[[Job, Request, Answer], dict[str, Any]]] = {
    "completions": _completions,
    "detokenize": _detokenize,
    "embeddings": _embeddings,
    "rerank": _rerank,
    "score": _score,
    "tokenize": _tokenize,
}


def _head(job: Job) -> dict[str, Any]:
    return {"id": job.id, "created": int(job.created_at), "model": job.model}


def _in_order(rows: Any, expected: int) -> list[dict[str, Any]]:
    """Returns the rows by their `index`, one for each input. Raises ValueError if one is missing."""
    given = cast(list[dict[str, Any]], rows)
    by_index = {_whole(row.get("index", at)): row for at, row in enumerate(given)}
    if sorted(by_index) != [*range(expected)]:
        raise ValueError(f"it has {len(by_index)} parts for {expected} inputs")
    return [by_index[at] for at in range(expected)]


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an integer, not {str(value)[:50]!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, not {str(value)[:50]!r}")
    return value


def _counts(found: Answer) -> dict[str, int]:
    """Returns the engine's counts, as a job has them; 0 where the engine does not count."""
    used = cast(Any, found.get("usage"))
    given = cast(dict[str, Any], used) if isinstance(used, dict) else {}
    total, answered = _count(given, "total_tokens"), _count(given, "completion_tokens")
    read = _count(given, "prompt_tokens") or max(0, total - answered)
    return {"prompt_tokens": read, "completion_tokens": answered, "total_tokens": total or read + answered}


def _count(given: Mapping[str, Any], name: str) -> int:
    value = given.get(name)
    return value if isinstance(value, int) and value >= 0 else 0


def _input_usage(found: Answer) -> dict[str, int]:
    counts = _counts(found)
    return {"prompt_tokens": counts["prompt_tokens"], "total_tokens": counts["total_tokens"]}
