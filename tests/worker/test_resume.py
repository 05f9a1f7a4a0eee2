"""Resuming a stream whose worker was lost: later bytes never contradict the bytes sent."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import WorkerLost
from tests.worker.answers import ANSWERS, TEXT_ANSWERS, Answer, chunks_of
from tests.worker.scripted import chunk, delta
from worker.engines.base import Chunk
from worker.stream.fold import Fold
from worker.stream.frames import FrameEncoder
from worker.stream.resume import Replay, Sent, can_continue

HEAD = {"id": "chatcmpl-1", "created": 7, "model": "m", "service_tier": "default"}


def log_of(chunks: list[Chunk]) -> bytes:
    encoder = FrameEncoder(HEAD, include_usage=False)
    return b"".join(encoder.encode(each) for each in chunks)


def gone_on(sent: Sent, again: list[Chunk]) -> tuple[bytes, Fold]:
    """Returns what a second attempt adds to the log, and the fold of both."""
    replay, folding = Replay(sent), Fold()
    encoder = FrameEncoder(HEAD, include_usage=False, begun=sent.begun, ended=sent.ended)
    for each in sent.chunks:
        folding.add(each)
    added = b""
    for each in again:
        chunk = replay.filter(each)
        folding.add(chunk)
        added += encoder.encode(chunk)
    return added, folding


@given(st.data(), ANSWERS)
def test_a_replay_in_other_chunks_continues_exactly_at_the_cut(data: st.DataObject, answer: Answer) -> None:
    first, again = data.draw(chunks_of(answer)), data.draw(chunks_of(answer, ids="another-"))
    seen = log_of(first[: data.draw(st.integers(0, len(first)))])

    added, folding = gone_on(Sent.from_log(seen), again)

    whole = Sent.from_log(seen + added)
    assert whole.texts == Sent.from_log(log_of(first)).texts
    assert whole.begun == whole.ended == set(range(len(answer.choices)))
    assert without_ids(folding.completion["choices"]) == without_ids(answer.completion())


@given(st.data(), ANSWERS)
def test_tool_calls_keep_the_ids_that_clients_have_seen(data: st.DataObject, answer: Answer) -> None:
    first, again = data.draw(chunks_of(answer)), data.draw(chunks_of(answer, ids="another-"))
    sent = Sent.from_log(log_of(first))

    added, folding = gone_on(sent, again)

    assert (added, folding.completion["choices"]) == (b"", answer.completion())


@given(st.data(), TEXT_ANSWERS, st.integers(0, 100))
def test_a_replay_that_differs_is_worker_lost(data: st.DataObject, answer: Answer, where: int) -> None:
    (choice,) = answer.choices
    seen = choice.content or "a"
    at = where % len(seen)
    other = Answer([type(choice)(seen[:at] + "X" + seen[at + 1 :])])
    sent = Sent.from_log(log_of([chunk(delta(seen))]))

    with pytest.raises(WorkerLost):
        gone_on(sent, data.draw(chunks_of(other)))


def test_a_replay_that_is_shorter_is_worker_lost() -> None:
    sent = Sent.from_log(log_of([chunk(delta("one two"))]))

    with pytest.raises(WorkerLost):
        gone_on(sent, [chunk(delta("one")), chunk(delta(finish="stop"))])


def without_ids(choices: list[dict[str, Any]]) -> list[Any]:
    calls = [call for each in choices for call in each["message"].get("tool_calls", ())]
    return [
        [(each["index"], each["message"]["content"], each["finish_reason"]) for each in choices],
        [call["function"] for call in calls],
    ]


def test_what_was_sent_is_read_from_the_log() -> None:
    sent = Sent.from_log(log_of([chunk(delta("one")), chunk(delta(" two", finish="stop"))]))

    assert (sent.text, sent.begun, sent.ended) == ("one two", {0}, {0})
    assert Sent.from_log(b"").text == ""


SEEN = Sent.from_log(log_of([chunk(delta("one"))]))
CALLED = Sent.from_log(log_of([chunk(delta(tool_calls=[{"index": 0, "id": "x", "function": {"name": "f"}}]))]))
ENDED = Sent.from_log(log_of([chunk(delta("one", finish="stop"))]))
REASONED = Sent.from_log(log_of([chunk(delta(reasoning_content="so"))]))


@pytest.mark.parametrize(
    ("request_has", "sent", "possible"),
    [
        pytest.param({}, SEEN, True, id="plain text"),
        pytest.param({"n": 1, "tools": [], "logprobs": False}, SEEN, True, id="options that say nothing"),
        pytest.param({}, Sent(), True, id="nothing was said"),
        pytest.param({"tools": [{"type": "function"}]}, SEEN, False, id="tools"),
        pytest.param({"response_format": {"type": "json_object"}}, SEEN, False, id="JSON"),
        pytest.param({"logprobs": True}, SEEN, False, id="log probabilities"),
        pytest.param({"n": 2}, SEEN, False, id="several choices"),
        pytest.param({}, CALLED, False, id="a tool was called"),
        pytest.param({}, REASONED, False, id="it was reasoning"),
        pytest.param({}, ENDED, False, id="the text has ended"),
    ],
)
def test_only_plain_text_is_continued(request_has: dict[str, Any], sent: Sent, possible: bool) -> None:
    assert can_continue(request_has, sent) is possible
