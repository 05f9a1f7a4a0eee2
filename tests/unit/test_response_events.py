"""The events of a response: a function of its job's record and log, whatever the pieces in which the log comes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from producer.responses.events import ResponseEvents
from producer.responses.kept import Kept
from producer.responses.request import check_responses_request
from producer.responses.response import response_object
from producer.responses.translate import Earlier, translated
from shared.errors import EngineError, JobCancelled
from shared.frames import error_frames
from shared.job import Job, JobStatus, Tier
from worker.openai import translate
from worker.stream.fold import fold
from worker.stream.frames import FrameEncoder

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {"prompt_tokens": 4, "completion_tokens": 9, "total_tokens": 13}
JOB_ID = "chatcmpl-" + "0123456789abcdef" * 2


def job_with(status: JobStatus = JobStatus.COMPLETED, **more: Any) -> Job:
    job = Job(
        id=JOB_ID,
        tenant="t",
        model="m",
        tier=Tier.DEFAULT,
        mode="stream",
        created_at=1_700_000_000.25,
        deadline_at=1_700_000_600.0,
        retention=60.0,
        api="responses",
        stored=True,
        status=status,
        **more,
    )
    job.finished_at = 1_700_000_003.5 if status.terminal else None
    return job


def kept_of(**fields: Any) -> Kept:
    request = check_responses_request({"model": "m", "input": "hi"} | fields)
    return translated(request, Earlier(), background=bool(fields.get("background")), limit=10**6).kept


def delta(**said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "logprobs": None, "finish_reason": None}]}


def text(said: str) -> dict[str, Any]:
    return delta(content=said)


def call(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    body = {"arguments": arguments} | ({"name": name} if name else {})
    about = {"id": f"call_{index}", "type": "function"} if name else {}
    return delta(tool_calls=[{"index": index, **about, "function": body}])


def finish(reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}]}


def log_of(chunks: Iterable[dict[str, Any]], end: bytes | None = None) -> bytes:
    """As the worker writes it."""
    encoder = FrameEncoder(translate.head(job_with()), include_usage=True)
    frames = [
        encoder.encode_text(0, chunk["choices"][0]["delta"]["content"]) if is_plain(chunk) else encoder.encode(chunk)
        for chunk in chunks
    ]
    return b"".join(frames) + (encoder.end(USAGE) if end is None else end)


def is_plain(chunk: dict[str, Any]) -> bool:
    (choice,) = chunk["choices"]
    return choice["delta"].keys() == {"content"} and not choice["logprobs"]


def events_of(
    log: bytes, job: Job | None = None, kept: Kept | None = None, *, cuts: Sequence[int] = (), after: int = -1
) -> bytes:
    events = ResponseEvents(job_with(JobStatus.QUEUED), kept or kept_of(), after)
    said = events.open()
    edges = [0, *sorted(min(cut, len(log)) for cut in cuts), len(log)]
    said += b"".join(events.feed(log[start:end]) for start, end in pairwise(edges))
    return said + events.end(job or job_with())


def parsed(said: bytes) -> list[dict[str, Any]]:
    """Each event, checked against OpenAI's types; numbers follow each other."""
    found = [one(frame) for frame in said.decode().split("\n\n")[:-1]]
    first = found[0]["sequence_number"] if found else 0
    assert [event["sequence_number"] for event in found] == list(range(first, first + len(found)))
    return found


def one(frame: str) -> dict[str, Any]:
    name, data = frame.split("\n")
    event = orjson.loads(data.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    assert EVENT.validate_python(event, strict=True).type == event["type"]
    return event


def kinds(said: bytes) -> list[str]:
    return [event["type"].removeprefix("response.") for event in parsed(said)]


def last(said: bytes) -> dict[str, Any]:
    return parsed(said)[-1]["response"]


def test_a_text() -> None:
    said = events_of(log_of([text("one"), text(' "two"\n'), finish()]))
    assert kinds(said) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    response = last(said)
    assert Response.model_validate_json(orjson.dumps(response), strict=True).output_text == 'one "two"\n'
    assert response["completed_at"] == 1_700_000_003
    assert response["usage"]["input_tokens"] == 4


def test_a_background_response_is_queued_first() -> None:
    kept = kept_of(background=True)
    events = ResponseEvents(job_with(JobStatus.QUEUED), kept)
    assert kinds(events.open()) == ["created", "queued"]
    assert events.open() == b""
    said = events_of(log_of([text("one"), finish()]), kept=kept)
    assert kinds(said)[:3] == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in parsed(said)[:3]] == ["queued", "queued", "in_progress"]


def test_reasoning_is_an_item_before_the_message() -> None:
    said = events_of(log_of([delta(reasoning_content="h"), delta(reasoning_content="m"), text("yes"), finish()]))
    assert kinds(said)[2:8] == [
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done"),
    ]
    reasoning, message = last(said)["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert reasoning["id"].startswith("rs_") and message["id"].startswith("msg_")
    assert message["content"][0]["text"] == "yes"


def test_tool_calls() -> None:
    chunks = [text("so"), call(0, '{"a', "f"), call(1, "", "g"), call(1, "{}"), call(0, '":1}'), finish("tool_calls")]
    said = events_of(log_of(chunks))
    assert kinds(said)[7:] == [
        *("output_item.done", "output_item.added", "function_call_arguments.delta", "output_item.added"),
        *("function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done") * 2,
        "completed",
    ]
    _, one, two = last(said)["output"]
    assert (one["name"], one["arguments"], one["call_id"]) == ("f", '{"a":1}', "call_0")
    assert (two["name"], two["arguments"], two["status"]) == ("g", "{}", "completed")


def test_custom_tool_calls() -> None:
    piece = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "t", "input": "x"}}
    more = {"index": 0, "custom": {"input": "y"}}
    said = events_of(log_of([delta(tool_calls=[piece]), delta(tool_calls=[more]), finish("tool_calls")]))
    assert "custom_tool_call_input.done" in kinds(said)
    (call,) = last(said)["output"]
    assert (call["type"], call["input"], call["call_id"]) == ("custom_tool_call", "xy", "c")


def test_a_refusal_is_a_part_of_the_message() -> None:
    said = events_of(log_of([text("a"), delta(refusal="no"), finish()]))
    (message,) = last(said)["output"]
    assert [part["type"] for part in message["content"]] == ["output_text", "refusal"]
    assert kinds(said).count("refusal.delta") == 1


def test_log_probabilities_where_they_were_asked_for() -> None:
    token = {"token": "é", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    chunk = {"choices": [{**text("é")["choices"][0], "logprobs": {"content": [token], "refusal": None}}]}
    log = log_of([chunk, finish()])
    kept = kept_of(include=["message.output_text.logprobs"])
    expected = [{"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9], "top_logprobs": []}]
    assert last(events_of(log, kept=kept))["output"][0]["content"][0]["logprobs"] == expected
    assert last(events_of(log))["output"][0]["content"][0]["logprobs"] == []


@pytest.mark.parametrize(("reason", "details"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_incomplete_response(reason: str, details: str) -> None:
    said = events_of(log_of([text("one"), finish(reason)]))
    assert kinds(said)[-1] == "incomplete"
    response = last(said)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": details})
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (JobStatus.FAILED, EngineError("It broke."), "failed"),
        (JobStatus.EXPIRED, EngineError("Too late."), "failed"),
        (JobStatus.CANCELLED, JobCancelled("The job was cancelled."), "cancelled"),
    ],
)
def test_an_end_before_the_answers(status: JobStatus, error: EngineError, told: str) -> None:
    log = log_of([text("one")], end=error_frames(error.to_dict()))
    said = events_of(log, job_with(status, error=error.to_dict()))
    assert kinds(said)[-1] == "failed"
    response = last(said)
    assert response["status"] == told
    assert response["error"] == ({"code": "server_error", "message": error.message} if told == "failed" else None)
    assert response["output"][0]["status"] == "incomplete"


def test_an_empty_answer_is_an_empty_message() -> None:
    (message,) = last(events_of(log_of([finish()])))["output"]
    assert message["content"][0]["text"] == ""


# ── any log ──

texts = st.text(min_size=1, max_size=8)
pieces = st.one_of(
    st.builds(text, texts),
    st.builds(text, texts),
    st.builds(lambda said: delta(reasoning_content=said), texts),
    st.builds(lambda said: delta(reasoning=said), texts),
    st.builds(lambda said: delta(refusal=said), texts),
    st.builds(lambda said, other: delta(content=said, reasoning=other), texts, texts),
    st.builds(lambda at, said: call(at, said, "f"), st.integers(0, 2), texts),
    st.builds(lambda said: delta(content=said) | {"system_fingerprint": "fp"}, texts),
)
answers = st.lists(pieces, max_size=12)
reasons = st.sampled_from(["stop", "length", "tool_calls"])


@given(answers, reasons, st.lists(st.integers(0, 4000), max_size=8), st.booleans())
def test_any_cut_gives_the_same_bytes(
    chunks: list[dict[str, Any]], reason: str, cuts: list[int], background: bool
) -> None:
    log, kept = log_of([*chunks, finish(reason)]), kept_of(background=background)
    whole = events_of(log, kept=kept)
    assert events_of(log, kept=kept, cuts=cuts) == whole
    assert events_of(log, kept=kept, cuts=range(0, len(log), 7)) == whole
    ends = [at + 2 for at in range(len(log)) if log.startswith(b"\n\n", at)]
    for together in (1, 2):
        assert events_of(log, kept=kept, cuts=ends[::together]) == whole


@given(answers, st.integers(-1, 40), st.lists(st.integers(0, 4000), max_size=4))
def test_any_number_resumes(chunks: list[dict[str, Any]], after: int, cuts: list[int]) -> None:
    log = log_of([*chunks, finish()])
    whole = [frame + b"\n\n" for frame in events_of(log).split(b"\n\n")[:-1]]
    assert events_of(log, cuts=cuts, after=after) == b"".join(whole[after + 1 :])


@given(answers, reasons)
def test_any_event_is_openais_and_the_deltas_make_the_response(chunks: list[dict[str, Any]], reason: str) -> None:
    events = parsed(events_of(log_of([*chunks, finish(reason)])))
    grown = list(output_by_deltas(events))
    response = events[-1]["response"]
    Response.model_validate_json(orjson.dumps(response), strict=True)
    assert grown == [item_texts(item) for item in response["output"]]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == sorted(
        response["output"],
        key=lambda item: [e["item"]["id"] for e in events if e["type"] == "response.output_item.done"].index(
            item["id"]
        ),
    )


def output_by_deltas(events: list[dict[str, Any]]) -> Iterator[list[str]]:
    items: list[list[str]] = []
    for event in events:
        if event["type"] == "response.output_item.added":
            items.append([] if event["item"]["type"] in ("message", "reasoning") else [""])
        elif event["type"] == "response.content_part.added":
            items[event["output_index"]].append("")
        elif event["type"].endswith(".delta"):
            items[event["output_index"]][event.get("content_index", 0)] += event["delta"]
    yield from items


def item_texts(item: dict[str, Any]) -> list[str]:
    if "content" not in item:
        return [item["arguments"]]
    return [part.get("text", part.get("refusal")) for part in item["content"]]


@given(st.text(max_size=9), st.text(max_size=9), st.booleans())
def test_an_answer_without_a_log_gives_what_its_stream_gives(thought: str, said: str, calls: bool) -> None:
    chunks = [
        *([delta(reasoning_content=thought)] if thought else []),
        *([text(said)] if said else []),
        *([call(0, "{}", "f"), call(1, "{}", "g")] if calls else []),
        finish("tool_calls" if calls else "stop"),
    ]
    completion = fold([*chunks, {"choices": [], "usage": USAGE}])
    events = ResponseEvents(job_with(), kept_of())
    whole = events.feed_completion(completion) + events.end(job_with())
    assert whole == events_of(log_of(chunks))
    assert orjson.loads(orjson.dumps(events.response)) == last(whole)


def test_a_response_that_runs_has_no_output_yet() -> None:
    job = job_with(JobStatus.QUEUED)
    response = response_object(job, kept_of(), status="queued")
    assert Response.model_validate_json(orjson.dumps(response), strict=True).status == "queued"
    assert response["output"] == []
