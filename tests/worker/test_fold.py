"""Folding a stream into a completion."""

from hypothesis import given
from hypothesis import strategies as st

from tests.worker.answers import ANSWERS, Answer, chunks_of
from tests.worker.scripted import ANSWER, USAGE, chunk, delta
from worker.engines.base import Chunk
from worker.stream.fold import Fold, fold


@given(st.data(), ANSWERS)
def test_folding_restores_an_answer_however_it_was_split(data: st.DataObject, answer: Answer) -> None:
    folded = fold(data.draw(chunks_of(answer)))

    assert (folded["object"], folded["choices"], folded["usage"]) == (
        "chat.completion",
        answer.completion(),
        answer.usage,
    )


def test_a_partial_answer_can_be_folded() -> None:
    folding = Fold()
    for word in ANSWER[:2]:
        folding.add(chunk(delta(word)))

    (choice,) = folding.completion["choices"]

    assert not folding.finished
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", None)


def test_a_fold_is_finished_when_every_begun_choice_has_ended() -> None:
    steps: list[Chunk] = [
        chunk(delta("a"), delta("b", index=1)),
        chunk(delta(finish="stop")),
        chunk(delta(finish="length", index=1)),
        chunk(usage=USAGE),
    ]
    folding, finished = Fold(), list[bool]()
    for step in steps:
        folding.add(step)
        finished.append(folding.finished)

    assert finished == [False, False, True, True]
    assert not Fold().finished


def test_reasoning_and_log_probabilities_are_joined() -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    parts = [{**delta("a", reasoning_content="so"), "logprobs": {"content": [token], "refusal": None}}] * 2

    (choice,) = fold([chunk(part) for part in parts])["choices"]

    assert choice["message"]["reasoning_content"] == "soso"
    assert choice["logprobs"] == {"content": [token, token], "refusal": None}
