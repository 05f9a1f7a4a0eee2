"""A client gets OpenAI's types or one clear error, whatever a server sends."""

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from shared.errors import EngineError, EngineOverloaded, EngineRefused, IgniteError
from shared.frames import DONE, frame
from tests.contract.performers import new_job
from tests.worker.engines.openai.accents import (
    ACCENTS,
    BEGIN,
    COST,
    END,
    FAILED,
    HEL,
    HI,
    LO,
    OVERLOADED,
    REFUSED,
    WAITS,
    Accent,
    piece,
)
from tests.worker.scripted import decoded
from worker.engines.base import Chunk
from worker.engines.openai.body import AnswerBody
from worker.engines.openai.failures import UpstreamFailed
from worker.engines.openai.normalizing.normalizer import Normalizer
from worker.openai import translate
from worker.stream.fold import Fold, fold, plain_text
from worker.stream.frames import FrameEncoder

JOB = new_job()


def normalized(body: bytes, cuts: list[int] | None = None, **options: Any) -> list[Chunk]:
    edges = sorted({min(cut, len(body)) for cut in cuts or []} | {0, len(body)})
    answer, normalizer = AnswerBody(), Normalizer(**options)
    chunks: list[Chunk] = []
    for start, end in pairwise(edges):
        for event in answer.feed(body[start:end]):
            chunks += normalizer.add(event)
    for event in answer.end():
        chunks += normalizer.add(event)
    return [*chunks, *normalizer.end()]


def sent(body: bytes, cuts: list[int] | None = None) -> tuple[dict[str, Any], list[Any]]:
    """Returns the completion and the frames that a client gets for a body."""
    folding, encoder = Fold(), FrameEncoder(translate.head(JOB), include_usage=True)
    frames = b""
    for chunk in normalized(body, cuts):
        if (plain := plain_text(chunk)) is not None and encoder.has_begun(plain[0]):
            folding.add_text(chunk, *plain)
            frames += encoder.encode_text(*plain)
        else:
            folding.add(chunk)
            frames += encoder.encode(chunk)
    frames += encoder.end(folding.usage)
    return translate.completion(JOB, folding.completion), [decoded(each) for each in frames.split(b"\n\n")[:-1]]


@pytest.mark.parametrize("accent", ACCENTS.values(), ids=ACCENTS)
def test_a_dialect_is_understood(accent: Accent) -> None:
    completion, frames = sent(accent.body)

    (choice,) = completion["choices"]
    message = {key: value for key, value in choice["message"].items() if value is not None or key == "content"}
    assert message == {"role": "assistant", **accent.message}
    assert (choice["finish_reason"], completion["usage"]) == (accent.finish, accent.usage)
    assert choice["logprobs"] == accent.logprobs
    for name, value in accent.more.get("choice", {}).items():
        assert choice[name] == value
    for name, value in accent.more.items():
        assert name == "choice" or completion[name] == value
    assert fold(frames[:-1])["choices"] == completion["choices"]


@pytest.mark.parametrize("name", sorted(ACCENTS.keys() - {"a custom tool"}))  # no type of a chunk knows those
def test_answers_have_openais_types(name: str) -> None:
    completion, frames = sent(ACCENTS[name].body)

    check_types(completion, frames)


@given(st.sampled_from(sorted(ACCENTS)), st.lists(st.integers(0, 3000)))
def test_a_dialect_is_understood_however_it_is_split(name: str, cuts: list[int]) -> None:
    body = ACCENTS[name].body
    assert sent(body, cuts)[0]["choices"] == sent(body)[0]["choices"]


@pytest.mark.parametrize(("said", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("begun", [[], [HEL]], ids=["at first", "in the middle"])
def test_a_refusal_has_the_servers_message(said: dict[str, Any], words: str, begun: list[Any]) -> None:
    for body in (Accent([*begun, said]).body, orjson.dumps(said)):
        with pytest.raises(EngineRefused, match=words):
            normalized(body)


@pytest.mark.parametrize("said", OVERLOADED.values(), ids=OVERLOADED)
def test_overload_inside_an_answer_is_a_failed_try(said: dict[str, Any]) -> None:
    for body in (Accent([said]).body, orjson.dumps(said)):
        with pytest.raises(UpstreamFailed, match="slow down") as failed:
            normalized(body)
        assert failed.value.retryable


@pytest.mark.parametrize("said", WAITS.values(), ids=WAITS)
def test_overload_inside_an_answer_with_a_time_to_wait_is_waited_for(said: dict[str, Any]) -> None:
    for body in (Accent([said]).body, orjson.dumps(said)):
        with pytest.raises(EngineOverloaded, match="slow down") as overloaded:
            normalized(body)
        assert overloaded.value.retry_after == 7


@pytest.mark.parametrize(("events", "words"), FAILED.values(), ids=FAILED)
def test_a_failure_quotes_the_received_data(events: list[Any], words: str) -> None:
    with pytest.raises(EngineError) as failed:
        normalized(Accent(events, done=b"" if words == "ended before" else DONE).body)
    assert words in failed.value.message
    assert failed.value.retryable


def test_done_without_finish_reason_and_usage_is_an_error() -> None:
    """A server that failed may still send `[DONE]`."""
    with pytest.raises(EngineError, match="ended before"):
        normalized(Accent([HEL, LO]).body)


def test_a_named_tool_ends_with_stop_as_openais_do() -> None:
    body = Accent([piece({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}), END])
    assert fold(normalized(body.body, names_tool=True))["choices"][0]["finish_reason"] == "stop"


def test_missing_ids_are_created_once() -> None:
    bare = {"index": 0, "type": "function", "function": {"name": "f", "arguments": "{"}}
    for ids in ([None, None], ["", ""], [7, 7], [None, ""]):
        deltas = [{**bare, "id": ids[0]}, {"index": 0, "id": ids[1], "function": {"arguments": "}"}}]
        body = Accent([piece({"tool_calls": [delta]}) for delta in deltas] + [END, COST]).body
        (call,) = fold(normalized(body))["choices"][0]["message"]["tool_calls"]
        assert call["id"].startswith("call_")
        assert call["function"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize("own", ["", None])
def test_googles_calls_with_one_index_and_no_ids(own: str | None) -> None:
    texts = ['{"q":"a"}', '{"q":"b"}', "{}"]
    call = {"index": 0, "id": own, "type": "function"}
    deltas = [{**call, "function": {"name": "look", "arguments": text}} for text in texts]
    body = Accent([piece({"tool_calls": [delta]}) for delta in deltas] + [END, COST]).body
    calls = fold(normalized(body))["choices"][0]["message"]["tool_calls"]
    assert [each["function"] for each in calls] == [{"name": "look", "arguments": text} for text in texts]
    assert len({each["id"] for each in calls}) == 3


def test_choices_end_independently() -> None:
    both = [
        {**event, "choices": [{**part, "index": index} for part in event["choices"]]}
        for event in HI[:4]
        for index in (1, 0)
    ]
    chunks = normalized(Accent([*both, COST]).body, choices=2)
    assert [choice["message"]["content"] for choice in fold(chunks)["choices"]] == ["Hello", "Hello"]
    assert [choice["index"] for chunk in chunks[-3:-1] for choice in chunk["choices"]] == [0, 1]


def test_missing_choices_are_counted() -> None:
    normalizer = Normalizer(3)
    for event in HI:
        normalizer.add(orjson.dumps(event))
    assert (normalizer.missing, normalizer.finished) == (2, False)


def test_plain_text_passes_unchanged() -> None:
    """From the third piece on; two pieces show that the server sends no snapshots."""
    normalizer = Normalizer()
    for event in (BEGIN, HEL, LO):
        normalizer.add(orjson.dumps(event))
    assert normalizer.add(orjson.dumps(HEL)) == [HEL]
    assert normalizer.add(orjson.dumps({**LO, "usage": None})) == [{**LO, "usage": None}]


# ── anything at all ──

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    *("choices", "delta", "index", "content", "tool_calls", "function", "arguments", "id", "type", "name", "usage"),
    *("completion_tokens", "prompt_tokens", "created", "model", "bytes", "logprob", "url_citation", "transcript"),
    *("finish_reason", "message", "error", "logprobs", "role", "refusal", "reasoning_content", "audio", "custom"),
]


def replaced(value: Any, name: str, other: Any) -> Any:
    """Returns `value` with `other` in every field of this name."""
    if isinstance(value, dict):
        return {key: other if key == name else replaced(item, name, other) for key, item in value.items()}
    return [replaced(item, name, other) for item in value] if isinstance(value, list) else value


@given(st.data(), st.sampled_from(sorted(ACCENTS.keys() - {"a custom tool"})), st.sampled_from(NAMES), JSON)
def test_any_json_value_is_normalized_or_refused(data: st.DataObject, accent: str, name: str, other: Any) -> None:
    events = [*ACCENTS[accent].events]
    at = data.draw(st.integers(0, len(events) - 1))
    event = events[at]
    if isinstance(event, dict):
        # orjson refuses some of what json writes: NaN, infinities, integers of any length.
        events[at] = b"data: " + json.dumps(replaced(event, name, other)).encode() + b"\n\n"
    check_answer(Accent(events, done=ACCENTS[accent].done).body)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([frame(event) for event in HI]) | st.just(DONE)))
def test_any_bytes_are_normalized_or_refused(parts: list[bytes]) -> None:
    check_answer(b"".join(parts))


ODD: list[Any] = [None, True, 0, -1, 1.5, 2**70, "", "x", [], [None], [{}], {}, {"a": None}, float("nan")]


@pytest.mark.parametrize(
    ("accent", "name"),
    [("annotations", "type"), ("annotations", "url_citation"), ("audio", "id"), ("log probabilities", "bytes")],
)
@pytest.mark.parametrize("other", ODD, ids=str)
def test_an_odd_value_in_what_is_passed_on_is_left_out_or_refused(accent: str, name: str, other: Any) -> None:
    odd = (replaced(event, name, other) for event in ACCENTS[accent].events)
    events = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in odd]  # orjson refuses NaN, for one.
    check_answer(Accent(events, done=ACCENTS[accent].done).body)


def check_answer(body: bytes) -> None:
    try:
        completion, frames = sent(body)
    except IgniteError as error:
        assert isinstance(error, (EngineError, EngineRefused))
        assert error.message
    else:
        check_types(completion, frames)


def check_types(completion: dict[str, Any], frames: list[Any]) -> None:
    for choice in completion["choices"]:
        # Kinds of other servers are passed on.
        kinds = [each for each in choice["message"].get("annotations", ()) if each["type"] == "url_citation"]
        choice["message"]["annotations"] = kinds or None
    ChatCompletion.model_validate(orjson.loads(orjson.dumps(completion)))
    *chunks, done = frames
    assert done == "[DONE]"
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    check_calls([part["delta"] for chunk in chunks for part in chunk["choices"]])


def check_calls(deltas: list[dict[str, Any]]) -> None:
    """Asserts indices from 0; id, type and name once, in the first delta; arguments as text."""
    seen: list[str] = []
    for call in (call for delta in deltas for call in delta.get("tool_calls", ())):
        if call["index"] == len(seen):
            assert isinstance(call["id"], str)
            assert call["id"] not in seen
            assert call["type"] in ("function", "custom")
            seen.append(call["id"])
        else:
            assert 0 <= call["index"] < len(seen)
            assert not {"id", "type"} & call.keys()
