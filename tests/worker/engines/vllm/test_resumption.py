"""An answer that is continued by the ids of its tokens is the answer that nothing had disturbed: whatever the cut is,
and however characters are split over tokens.
"""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.engines.vllm.model import Model, Output, merged, outputs, tokenized
from worker.engines.base import Chunk
from worker.engines.vllm.record import Recorder, decode, encode_piece, encode_prompt
from worker.engines.vllm.resumed import without_repeated
from worker.engines.vllm.resumption import can_be_recorded, completion_request, resumption_of

PROMPT = tokenized("user: what does the fox say?\nassistant: ")
MESSAGES = [{"role": "user", "content": "what does the fox say?"}]


def ask(**fields: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, "temperature": 0, "seed": 3, "max_tokens": 60, **fields}


def chunk_of(output: Output) -> Chunk:
    """As the normalizer passes it on; the recorder takes the prompt's ids of the first chunk only."""
    delta = {"content": output.text} if output.text else {}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": output.finish_reason}
    return {"choices": [choice], "token_ids": output.ids, "prompt_token_ids": PROMPT}


class Job:
    """An answer in its log: `text` and `progress` as attempts have left them, and how it ended. `sizes` draws how many
    tokens a chunk has.
    """

    def __init__(self, model: Model, request: dict[str, Any], sizes: random.Random) -> None:
        self.model, self.request, self.sizes = model, request, sizes
        self.text, self.progress = "", b""
        self.end: tuple[int, str] | None = None

    def attempt(self, chunks: int | None = None) -> Self:
        """Generates, or goes on; with `chunks` its worker is lost after so many."""
        written = waiting = b""
        for chunk in islice(self._chunks(), chunks):
            waiting += chunk.get("progress", b"")
            (part,) = chunk["choices"]
            if text := part["delta"].get("content"):
                written, waiting = written + waiting, b""
                self.text, self.progress = self.text + text, written
            if part["finish_reason"]:
                self.end = (self._made, part["finish_reason"])
                break
        return self

    def _chunks(self) -> Iterator[Chunk]:
        resumption = resumption_of(self.request, self.text, self.progress) if self.text else None
        if resumption is None:
            assert not self.text
            recorder, prompt, asked, repeated = Recorder(), PROMPT, self.request, ""
        else:
            if not resumption.greedy and resumption.repeated:
                resumption = resumption.with_tokens(tokenized(resumption.repeated))
            recorder, prompt, repeated = Recorder(resumption.record), resumption.prompt, resumption.repeated
            asked = completion_request(self.request, resumption, None)
        self._made = len(prompt) - len(PROMPT)
        if asked["max_tokens"] <= 0:
            yield chunk_of(Output([], "", "length"))
            return
        for output in merged(outputs(self.model, prompt, asked), self.sizes):
            self._made += len(output.ids)
            chunk = recorder.recorded(chunk_of(output))
            if repeated:
                chunk, repeated = without_repeated(repeated, chunk)
            yield chunk


MODELS = st.builds(Model, st.integers(0, 10**6), st.sampled_from([0.0, 0.0, 0.3, 0.9]))
SIZES = st.integers(0, 10**6).map(random.Random)
CUTS = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@given(MODELS, SIZES, CUTS, st.booleans())
def test_a_greedy_answer_is_the_same_wherever_it_is_cut(
    model: Model, sizes: random.Random, cuts: list[int], ignore_eos: bool
) -> None:
    request = ask(ignore_eos=ignore_eos)

    assert outcome_of(model, request, sizes, cuts) == outcome_of(model, request, sizes, [])


@given(MODELS, SIZES, CUTS, st.integers(0, 200), st.integers(1, 8), st.booleans())
def test_a_stop_string_ends_it_at_the_same_place_on_either_side_of_the_cut(
    model: Model, sizes: random.Random, cuts: list[int], begin: int, length: int, included: bool
) -> None:
    text = Job(model, ask(), sizes).attempt().text
    begin %= max(1, len(text))
    request = ask(stop=[text[begin : begin + length] or "never"], include_stop_str_in_output=included)

    assert outcome_of(model, request, sizes, cuts) == outcome_of(model, request, sizes, [])


@given(MODELS, SIZES, CUTS, st.booleans())
def test_a_sampled_answer_keeps_what_was_sent_and_goes_on_as_one_answer(
    model: Model, sizes: random.Random, cuts: list[int], stops: bool
) -> None:
    request = ask(temperature=1.0, **({"stop": ["quick🦊"]} if stops else {}))
    job = Job(model, request, sizes)
    for cut in cuts:
        sent = job.text
        job.attempt(cut)
        assert job.text.startswith(sent)
    if job.end is None:
        job.attempt()

    assert job.end is not None
    assert "quick🦊" not in job.text or not stops
    tokens, reason = job.end
    assert reason == "stop" or tokens >= request["max_tokens"]


def outcome_of(model: Model, request: dict[str, Any], sizes: random.Random, cuts: list[int]) -> Any:
    job = Job(model, request, sizes)
    for cut in cuts:
        if job.end is None:
            job.attempt(cut)
    if job.end is None:
        job.attempt()
    return job.text, job.end


def test_a_record_is_read_as_it_was_written() -> None:
    data = encode_prompt([1, 300, 70_000]) + encode_piece([5], 2) + encode_piece([], 0) + encode_piece([2**31, 6], 300)

    record = decode(data)

    assert record is not None
    assert record.prompt == [1, 300, 70_000]
    assert [(piece.ids, piece.sent) for piece in record.pieces] == [((5,), 2), ((), 2), ((2**31, 6), 302)]
    assert record.encoded(3) == data
    assert len(encode_piece([151_000], 4)) == 6


@pytest.mark.parametrize("data", [b"", b"\x02\x01\x01", b"\x01\x05\x01", b"\x01\x01\x01\x07\x00\x00", b"\x01\x80"])
def test_what_is_no_record_is_none(data: bytes) -> None:
    assert decode(data) is None


def test_a_record_that_does_not_fit_the_text_is_not_used() -> None:
    """The log was continued by an attempt without ids, or a store has lost something."""
    progress = encode_prompt(PROMPT) + encode_piece([300], 3)
    assert resumption_of(ask(), "the", progress) is not None
    assert resumption_of(ask(), "the quick", progress) is None
    assert resumption_of(ask(), "the", b"") is None


@pytest.mark.parametrize(
    ("fields", "possible"),
    [
        pytest.param({}, True, id="plain"),
        pytest.param({"temperature": 0.7, "presence_penalty": 1.0}, True, id="sampled, with a penalty"),
        pytest.param({"presence_penalty": 1.0}, False, id="greedy, and tokens made are counted"),
        pytest.param({"repetition_penalty": 1.1}, True, id="a penalty that counts the prompt as well"),
        pytest.param({"tools": [{"type": "function"}]}, False, id="tools"),
        pytest.param({"response_format": {"type": "json_object"}}, False, id="a grammar would start anew"),
        pytest.param({"structured_outputs": {"regex": "a+"}}, False, id="another grammar"),
        pytest.param({"logprobs": True}, False, id="log probabilities have another form"),
        pytest.param({"n": 2}, False, id="several choices"),
        pytest.param({"vllm_xargs": {"a": 1}}, False, id="nobody knows what it does"),
        pytest.param({"return_token_ids": True}, False, id="the client asked for ids"),
        pytest.param({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, True, id="parts"),
        pytest.param({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, False, id="an image"),
    ],
)
def test_which_answers_can_be_continued_by_ids(fields: dict[str, Any], possible: bool) -> None:
    assert can_be_recorded(ask(**fields)) is possible


def test_a_completion_asks_for_what_is_left_of_the_answer() -> None:
    progress = encode_prompt([1, 2]) + encode_piece([300], 3) + encode_piece([301], 6)
    request = ask(max_tokens=10, min_tokens=3, top_p=0.5, chat_template_kwargs={"a": 1}, tool_choice="none")
    resumption = resumption_of(request, "the quick", progress)
    assert resumption is not None
    completion = completion_request(request, resumption, None)
    sampling = {"temperature": 0, "seed": 3, "top_p": 0.5}
    assert completion == {**sampling, "prompt": [1, 2, 300, 301], "max_tokens": 8, "min_tokens": 1}
    del request["max_tokens"]
    assert completion_request(request, resumption, 100)["max_tokens"] == 96, "a completion's own default is sixteen"
