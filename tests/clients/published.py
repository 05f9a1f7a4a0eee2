"""OpenAI's published answers, checked strictly: the SDK builds its models without looking."""

from collections.abc import Iterable, Mapping
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

ERROR = {"message", "type", "param", "code"}
REQUIRED: Mapping[type[BaseModel], set[str]] = {
    ChatCompletion: {"id", "object", "created", "model", "choices", "usage"},
    ChatCompletionChunk: {"id", "object", "created", "model", "choices"},
}
CHOICE = {"index", "finish_reason", "logprobs"}
TOKEN = {"token", "logprob", "bytes"}


def fits(shape: type[BaseModel], value: BaseModel) -> None:
    """All is of its type, and nothing is missing: a key that OpenAI requires is there also where its value is null."""
    shape.model_validate_json(value.model_dump_json(exclude_unset=True), strict=True)
    if shape in REQUIRED:
        answer = value.model_dump(exclude_unset=True)
        has(answer, REQUIRED[shape])
        for choice in answer["choices"]:
            whole_choice(choice, streamed=shape is ChatCompletionChunk)


def whole_choice(choice: Mapping[str, Any], *, streamed: bool) -> None:
    has(choice, CHOICE | ({"delta"} if streamed else {"message"}))
    if not streamed:
        whole_message(choice["message"])
    if choice["logprobs"] is not None:
        has(choice["logprobs"], {"content", "refusal"})
        for token in choice["logprobs"]["content"] or ():
            has(token, TOKEN | {"top_logprobs"})
            for other in token["top_logprobs"]:
                has(other, TOKEN)


def whole_message(message: Mapping[str, Any]) -> None:
    has(message, {"role", "content", "refusal"})
    for call in message.get("tool_calls") or ():
        has(call, {"id", "type", call["type"]})
        assert call["id"]
        has(call["function"], {"name", "arguments"})


def has(value: Mapping[str, Any], keys: Iterable[str]) -> None:
    absent = set(keys) - value.keys()
    assert not absent, f"{sorted(absent)} of {dict(value)}"
