"""From input items to chat messages, and from checked items to the resources that clients read. Pure.

Items are dicts here, as they are kept: those of the request, of earlier responses, and those that references name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from producer.responses import items
from shared.errors import InvalidRequest
from shared.schema.base import invalid, short

Resource = dict[str, Any]
"""An item as clients read it, without an id unless its client gave one."""

ALLOWED_PARTS = {
    "user": ("input_text", "input_image", "input_file", "input_audio"),
    "system": ("input_text",),
    "developer": ("input_text",),
    "assistant": ("output_text", "refusal", "input_text"),
}


# ── resources ────────────────────────────────────────────────────────────────────────────────────────────────────────


def message_resource(role: str, text: str) -> Resource:
    return {"type": "message", "role": role, "content": [text_part(role, text)], "status": "completed"}


def text_part(role: str, text: str) -> Resource:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def resource_of(item: items.Item, where: str) -> Resource:
    """Returns the item as it is kept. `where`: its path in the request. Raises InvalidRequest."""
    match item:
        case items.Message():
            found = {"type": "message", "role": item.role, "content": _content(item, where), "status": "completed"}
        case items.FunctionCall():
            found = _known(item, "call_id", "name", "arguments") | {"status": "completed"}
        case items.CustomToolCall():
            found = _known(item, "call_id", "name", "input") | {"status": "completed"}
        case items.FunctionCallOutput() | items.CustomToolCallOutput():
            found = _known(item, "call_id") | {"output": _output(item.output, where), "status": "completed"}
        case items.Reasoning():
            found = _reasoning(item, where)
        case items.ItemReference():
            raise AssertionError("references are resolved before")
    return found if item.id is None else {"id": item.id, **found}


def _known(item: items.Item, *names: str) -> Resource:
    return {name: getattr(item, name) for name in ("type", *names)}


def _content(message: items.Message, where: str) -> list[Resource]:
    if isinstance(message.content, str):
        return [text_part(message.role, message.content)]
    for index, part in enumerate(message.content):
        if part.type not in ALLOWED_PARTS[message.role]:
            param = f"{where}.content[{index}].type"
            raise InvalidRequest(
                invalid(param, f"'{part.type}' is no part of a message with the role '{message.role}'"), param=param
            )
    return [_part(message.role, part) for part in message.content]


def _part(role: str, part: items.Part) -> Resource:
    match part:
        case items.InputText() | items.OutputText():
            return text_part(role, part.text)
        case items.Refusal():
            return {"type": "refusal", "refusal": part.refusal}
        case items.InputImage():
            return {"type": "input_image", "detail": part.detail or "auto"} | _given(part, "image_url", "file_id")
        case items.InputFile():
            return {"type": "input_file"} | _given(part, "file_data", "file_id", "file_url", "filename")
        case items.InputAudio():
            data = part.input_audio
            return {"type": "input_audio", "input_audio": {"data": data.data, "format": data.format}}


def _given(part: items.InputImage | items.InputFile, *names: str) -> Resource:
    return {name: value for name in names if (value := getattr(part, name)) is not None}


def _output(output: str | Sequence[items.OutputPart], where: str) -> str | list[Resource]:
    if isinstance(output, str):
        return output
    for index, part in enumerate(output):
        if not isinstance(part, items.InputText):
            param = f"{where}.output[{index}].type"
            raise InvalidRequest(invalid(param, "engines take text from tools, as 'input_text'"), param=param)
    return [_part("user", part) for part in output]


def _reasoning(item: items.Reasoning, where: str) -> Resource:
    if item.encrypted_content is not None:
        param = f"{where}.encrypted_content"
        raise InvalidRequest(invalid(param, "nothing is encrypted here, and nothing can be decrypted"), param=param)
    found: Resource = {"type": "reasoning", "summary": [{"type": "summary_text", "text": s.text} for s in item.summary]}
    if item.content is not None:
        found["content"] = [{"type": "reasoning_text", "text": part.text} for part in item.content]
    return found


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Conversation:
    """Builds chat messages from items. Chat wants a tool's output right behind the message that calls it; items may
    come in any order. `sources`: for each message the path of the item that it comes from, in the request.

    Reasoning goes back to the engine only with the tool calls that it led to: chat templates drop older thoughts, and
    some servers refuse them.
    """

    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    sources: list[str] = field(default_factory=list[str])
    _open: dict[str, Any] | None = None
    _thoughts: list[str] = field(default_factory=list[str])
    _outputs: dict[str, deque[int]] = field(default_factory=dict[str, deque[int]])
    _consumed: set[int] = field(default_factory=set[int])
    _given: Sequence[tuple[Resource, str]] = ()

    def extend(self, given: Sequence[tuple[Resource, str]]) -> None:
        """Adds all items, each with its path. To be called once. Raises InvalidRequest."""
        self._given = given
        for index, (item, _) in enumerate(given):
            if item["type"].endswith("_output"):
                self._outputs.setdefault(item["call_id"], deque()).append(index)
        for index, (item, path) in enumerate(given):
            self._add(index, item, path)
        self._close()

    def append(self, message: dict[str, Any], source: str) -> None:
        self.messages.append(message)
        self.sources.append(source)

    def _add(self, index: int, item: Resource, path: str) -> None:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                self._say(item, path)
            case "message":
                self._close()
                self.append({"role": item["role"], "content": chat_content(item["content"], path)}, path)
            case "reasoning":
                self._thoughts.append(thoughts_of(item))
            case "function_call" | "custom_tool_call":
                self._call(item, path)
            case _:
                self._close()
                if index not in self._consumed:
                    called = short(item["call_id"])
                    raise InvalidRequest(
                        f"No tool call found for function call output with call_id {called}.", param=path
                    )

    def _say(self, item: Resource, path: str) -> None:
        self._close()
        message = self._assistant(path)
        parts = cast(list[dict[str, Any]], item["content"])
        message["content"] = "".join(part["text"] for part in parts if "text" in part)
        if refusals := [part["refusal"] for part in parts if part["type"] == "refusal"]:
            message["refusal"] = "".join(refusals)

    def _call(self, item: Resource, path: str) -> None:
        message = self._open if self._open is not None else self._assistant(path)
        if item["type"] == "function_call":
            call = {"type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        else:
            call = {"type": "custom", "custom": {"name": item["name"], "input": item["input"]}}
        message.setdefault("tool_calls", []).append({"id": item["call_id"], **call})

    def _assistant(self, path: str) -> dict[str, Any]:
        self._open = {"role": "assistant", "content": None}
        self.append(self._open, path)
        return self._open

    def _close(self) -> None:
        """Ends the assistant's message, and puts the outputs of its calls behind it."""
        message, self._open = self._open, None
        thoughts, self._thoughts = self._thoughts, []
        if message is None or not message.get("tool_calls"):
            return
        if text := "\n".join(filter(None, thoughts)):
            message["reasoning_content"] = text
        for call in message["tool_calls"]:
            waiting = self._outputs.get(call["id"])
            if not waiting:
                raise InvalidRequest(f"No tool output found for function call {short(call['id'])}.", param="input")
            index = waiting.popleft()
            self._consumed.add(index)
            item, path = self._given[index]
            content = item["output"] if isinstance(item["output"], str) else chat_content(item["output"], path)
            self.append({"role": "tool", "tool_call_id": call["id"], "content": content}, path)


def thoughts_of(item: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in item.get("content") or item["summary"])


def chat_content(parts: Iterable[Mapping[str, Any]], path: str) -> str | list[dict[str, Any]]:
    """Returns a chat message's content; one text alone is a string, which every engine takes."""
    found = [chat_part(part, f"{path}.content[{index}]") for index, part in enumerate(parts)]
    if len(found) == 1 and found[0]["type"] == "text":
        return found[0]["text"]
    return found or ""


def chat_part(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    match part["type"]:
        case "input_image":
            return {"type": "image_url", "image_url": image_url(part, path)}
        case "input_file":
            return {"type": "file", "file": file_of(part, path)}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case _:
            return {"type": "text", "text": part["text"]}


def image_url(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    if (url := part.get("image_url")) is None:
        param = f"{path}.image_url"
        raise InvalidRequest(invalid(param, "expected a URL; images cannot be named by 'file_id' here"), param=param)
    return {"url": url} if part["detail"] == "auto" else {"url": url, "detail": part["detail"]}


def file_of(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    if "file_url" in part:
        param = f"{path}.file_url"
        raise InvalidRequest(invalid(param, "files are not fetched here; send 'file_data'"), param=param)
    return {name: part[name] for name in ("file_data", "file_id", "filename") if name in part}
