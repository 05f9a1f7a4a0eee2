"""The events of a response, from the frames of its job's log. A synchronous state machine: the same record and the same
log give the same bytes, however the log is cut into pieces, on every replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import orjson

from producer.http.sse import Frames
from producer.responses.ids import output_item_id
from producer.responses.kept import Kept
from producer.responses.output import (
    TEXT_FIELD,
    CallItem,
    ItemStatus,
    OutputItem,
    PartKind,
    TextItem,
    TextPart,
    escaped,
    response_logprobs,
)
from producer.responses.response import INCOMPLETE, response_object, status_of
from shared.frames import FRAME_END
from shared.job import Job, JobStatus

DATA = b"data: "
DONE = b"data: [DONE]"
CHOICES = b'"choices":['
PLAIN = b'{"index":0,"delta":{"content":'
PLAIN_END = b'},"logprobs":null,"finish_reason":null}],"usage":null}'
PLAIN_FRAME_END = PLAIN_END + FRAME_END
"""What stands around a piece of plain text in the log (worker/stream/frames.py)."""

TEXT_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
    b'%b"delta":%b,"logprobs":[]}\n\n'
)

EVENTS: Mapping[PartKind, str] = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
}


class ResponseEvents:
    """`feed` takes the log, in any pieces, `end` the record of the job after its end; both return the events' bytes.
    Events up to the number `after` are left out.
    """

    def __init__(self, job: Job, kept: Kept, after: int = -1) -> None:
        self._job = replace(job, result=None)
        self._kept = kept
        self._after = after
        self._next = 0
        self._frames = Frames()
        self._out: list[bytes] = []
        self._items: list[OutputItem] = []
        self._text: TextItem | None = None
        self._calls: dict[int, CallItem] = {}
        self._unnamed: dict[int, dict[str, Any]] = {}
        self._usage: Mapping[str, Any] | None = None
        self._finish: str | None = None
        self._running = False
        self._plain = b""
        self._place = b""
        """The members of an event that name the open text part."""
        self._takes_plain = False
        self._escaped = bytearray()
        """The open text part's."""

    @property
    def next_number(self) -> int:
        """The number of the next event."""
        return self._next

    @property
    def response(self) -> dict[str, Any]:
        """The response after the end, its texts as JSON fragments."""
        return self._response(self._job, status_of(self._job, self._finish))

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items so far, as plain values."""
        return orjson.loads(orjson.dumps([item.to_dict() for item in self._items]))

    def open(self) -> bytes:
        """Returns the events that need no log: a background response's, which is there before it runs."""
        if self._kept.background:
            self._create()
        return self._taken()

    def feed(self, data: bytes) -> bytes:
        """Most frames are one piece of plain text each, and come alone; these pass fewest steps."""
        if self._takes_plain and data.endswith(PLAIN_FRAME_END) and self._frames.between:
            text = data[len(self._plain) : -len(PLAIN_FRAME_END)]
            if text.count(b'"') == 2 and data.startswith(self._plain):
                return self._add_plain(text)
        for frame in self._frames.feed(data):
            if self._takes_plain and frame.startswith(self._plain) and frame.endswith(PLAIN_END):
                text = frame[len(self._plain) : -len(PLAIN_END)]
                if text.count(b'"') == 2:  # One string without escaped quotes, and nothing beside it.
                    self._out.append(self._add_plain(text))
                    continue
            self._add_frame(frame)
        return self._taken()

    def feed_completion(self, completion: Mapping[str, Any]) -> bytes:
        """Takes the whole answer of a job without a log."""
        self._usage = completion.get("usage")
        for choice in completion["choices"]:
            calls = choice["message"].get("tool_calls") or ()
            delta: dict[str, Any] = {
                **choice["message"],
                "tool_calls": [{"index": at, **call} for at, call in enumerate(calls)],
            }
            self._add_choice({**choice, "delta": delta})
        return self._taken()

    def end(self, job: Job) -> bytes:
        """Returns the last events. `job`: the record, with its end."""
        self._job = replace(job, result=None)
        self._run()
        completed = job.status is JobStatus.COMPLETED
        if completed and not self._items:
            self._open_part("message", "output_text")
        self._close_all("completed" if completed and self._finish not in INCOMPLETE else "incomplete")
        status = status_of(job, self._finish)
        kind = "failed" if status == "cancelled" else status
        self._event(f"response.{kind}", {"response": self._response(self._job, status)})
        return self._taken()

    # ── the response ──

    def _response(self, job: Job, status: str) -> dict[str, Any]:
        ended = job.status.terminal
        return response_object(
            job,
            self._kept,
            status=status,
            output=[item.to_dict() for item in self._items] if ended else (),
            usage=self._usage or job.usage,
            finish_reason=self._finish,
        )

    def _create(self) -> None:
        if self._next:
            return
        if not self._kept.background:
            self._announce("created", JobStatus.IN_PROGRESS)
            return
        self._announce("created", JobStatus.QUEUED)
        self._announce("queued", JobStatus.QUEUED)

    def _announce(self, kind: str, status: JobStatus) -> None:
        job = replace(self._job, status=status, error=None, finished_at=None)
        self._event(f"response.{kind}", {"response": self._response(job, str(status))})

    def _run(self) -> None:
        if not self._running:
            self._running = True
            self._create()
            self._announce("in_progress", JobStatus.IN_PROGRESS)

    # ── the log ──

    def _add_plain(self, text: bytes) -> bytes:
        """Takes a JSON string, and returns its event."""
        self._escaped += text[1:-1]
        number, self._next = self._next, self._next + 1
        return TEXT_DELTA % (number, self._place, text) if number > self._after else b""

    def _add_frame(self, frame: bytes) -> None:
        if frame == DONE:
            return
        chunk = orjson.loads(frame.removeprefix(DATA))
        if "error" in chunk:  # The record has it.
            return
        head = frame.find(CHOICES)
        self._plain = frame[: head + len(CHOICES)] + PLAIN
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            if choice["index"] == 0:
                self._add_choice(choice)

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        self._run()
        delta: Mapping[str, Any] = choice["delta"]
        logprobs = response_logprobs(choice.get("logprobs")) if self._kept.logprobs else []
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            self._say("reasoning", "reasoning_text", thought)
        if (text := delta.get("content")) or (logprobs and self._takes_text):
            self._say("message", "output_text", text or "", logprobs)
        if refusal := delta.get("refusal"):
            self._say("message", "refusal", refusal)
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        if (reason := choice.get("finish_reason")) is not None:
            self._finish = reason
            if self._items:
                self._close_all("incomplete" if reason in INCOMPLETE else "completed")

    # ── texts ──

    @property
    def _takes_text(self) -> bool:
        return self._text is not None and self._text.parts[-1].kind == "output_text"

    def _say(
        self,
        item: Literal["message", "reasoning"],
        kind: PartKind,
        text: str,
        logprobs: list[dict[str, Any]] | None = None,
    ) -> None:
        part = self._open_part(item, kind)
        piece = escaped(text)
        part.escaped += piece
        members: dict[str, Any] = {"delta": orjson.Fragment(b'"%b"' % piece)}
        if kind == "output_text":
            part.add_logprobs(logprobs or [])
            members["logprobs"] = logprobs or []
        self._part_event(f"{EVENTS[kind]}.delta", members)

    def _open_part(self, item: Literal["message", "reasoning"], kind: PartKind) -> TextPart:
        """Returns the open part if it is of that kind; else opens one, in the open item if that is of its kind."""
        if self._text is not None and self._text.kind != item:
            self._close_text("completed")
        if self._text is None:
            index = len(self._items)
            self._text = TextItem(output_item_id(self._job.id, item, index), item, index)
            self._items.append(self._text)
            self._event("response.output_item.added", {"output_index": index, "item": self._text.to_dict()})
        elif self._text.parts[-1].kind == kind:
            return self._text.parts[-1]
        else:
            self._close_part()
        part = TextPart(kind)
        self._text.parts.append(part)
        place = {
            "item_id": self._text.id,
            "output_index": self._text.index,
            "content_index": len(self._text.parts) - 1,
        }
        self._place = orjson.dumps(place)[1:-1] + b","
        self._takes_plain, self._escaped = kind == "output_text", part.escaped
        self._part_event("response.content_part.added", {"part": part.to_dict()})
        return part

    def _close_part(self) -> None:
        assert self._text is not None
        part = self._text.parts[-1]
        members: dict[str, Any] = {TEXT_FIELD[part.kind]: part.text}
        if part.kind == "output_text":
            members["logprobs"] = part.logprobs
        self._part_event(f"{EVENTS[part.kind]}.done", members)
        self._part_event("response.content_part.done", {"part": part.to_dict()})
        self._takes_plain = False

    def _close_text(self, status: ItemStatus) -> None:
        if (item := self._text) is not None:
            self._close_part()
            self._text = None
            self._close_item(item, status)

    # ── calls ──

    def _add_call(self, piece: Mapping[str, Any]) -> None:
        """Takes a piece of a tool call. Calls stay open to the end: engines may write several at once."""
        self._close_text("completed")
        index = piece["index"]
        custom = "custom" in piece or piece.get("type") == "custom"
        body: Mapping[str, Any] = piece.get("custom" if custom else "function") or {}
        text: str = body.get("input" if custom else "arguments") or ""
        call = self._calls.get(index)
        if call is None:
            known = self._unnamed.setdefault(index, {"id": None, "name": "", "text": "", "custom": custom})
            known["id"] = piece.get("id") or known["id"]
            known["name"] += body.get("name") or ""
            text = known["text"] = known["text"] + text
            if not known["name"]:
                return
            call = self._open_call(index)
        if text:
            encoded = escaped(text)
            call.escaped += encoded
            self._call_event(call, "delta", {"delta": orjson.Fragment(b'"%b"' % encoded)})

    def _open_call(self, index: int) -> CallItem:
        known = self._unnamed.pop(index)
        kind: Literal["function_call", "custom_tool_call"] = "custom_tool_call" if known["custom"] else "function_call"
        at = len(self._items)
        item_id = output_item_id(self._job.id, kind, at)
        call = CallItem(item_id, kind, at, known["id"] or f"call{item_id[item_id.index('_') :]}", known["name"])
        self._calls[index] = call
        self._items.append(call)
        self._event("response.output_item.added", {"output_index": at, "item": call.to_dict()})
        return call

    def _close_all(self, status: ItemStatus) -> None:
        """Ends the open items; only the last one is left incomplete."""
        for index in list(self._unnamed):
            self._open_call(index)
        self._close_text(status)
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            members = {"name": call.name} if call.kind == "function_call" else {}
            self._call_event(call, "done", {**members, call.field: call.text})
            self._close_item(call, status if call is calls[-1] else "completed")

    def _close_item(self, item: OutputItem, status: ItemStatus) -> None:
        item.status = status
        self._event("response.output_item.done", {"output_index": item.index, "item": item.to_dict()})

    # ── events ──

    def _part_event(self, kind: str, members: Mapping[str, Any]) -> None:
        self._write(kind, lambda: self._place + orjson.dumps(members)[1:])

    def _call_event(self, call: CallItem, kind: str, members: Mapping[str, Any]) -> None:
        name = "function_call_arguments" if call.kind == "function_call" else "custom_tool_call_input"
        self._event(f"response.{name}.{kind}", {"item_id": call.id, "output_index": call.index, **members})

    def _event(self, kind: str, members: Mapping[str, Any]) -> None:
        self._write(kind, lambda: orjson.dumps(members)[1:])

    def _write(self, kind: str, members: Callable[[], bytes]) -> None:
        """Appends an event; `members` gives its own members and the closing brace."""
        if self._next > self._after:
            name = kind.encode()
            self._out.append(
                b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b\n\n' % (name, name, self._next, members())
            )
        self._next += 1

    def _taken(self) -> bytes:
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)
