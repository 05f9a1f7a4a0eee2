"""Translation of requests and answers for llama.cpp's server."""

from typing import Any

import pytest

from shared.errors import EngineError, EngineRefused
from tests.worker.engines.requests import ask
from worker.engines.llamacpp.dialect import (
    AnswerCorrection,
    error_from,
    input_modalities,
    refusal,
    request_per_choice,
)

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("add", "search")]


def sent(**fields: Any) -> dict[str, Any]:
    return request_per_choice(ask(**fields))[0]


def names(request: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in request["tools"]]


def chunk(content: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None, **fields}
    return {"id": "a", "created": 1, "model": "m", "object": "chat.completion.chunk", "choices": [choice]}


def usage_chunk(prompt: int, completion: int) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**chunk(), "choices": [], "usage": usage}


def test_a_named_tool_is_the_only_one_left_and_required() -> None:
    request = sent(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "search"}})
    assert names(request) == ["search"]
    assert request["tool_choice"] == "required"


def test_a_name_that_no_tool_has_is_refused() -> None:
    with pytest.raises(EngineRefused, match="'walk'") as refused:
        sent(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "walk"}})
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize(("choice", "kept"), [("required", False), ("auto", True)])
def test_a_forced_tool_overrides_a_response_format(choice: str, kept: bool) -> None:
    request = sent(tools=TOOLS, tool_choice=choice, response_format={"type": "json_object"})
    assert ("response_format" in request) is kept


def test_nulls_are_omitted() -> None:
    assert {"top_p", "tools"}.isdisjoint(sent(top_p=None, tools=None))


def test_each_choice_has_its_seed() -> None:
    requests = request_per_choice(ask(n=3))
    assert [request["seed"] for request in requests] == [7, 8, 9]
    assert all("n" not in request for request in requests)


@pytest.mark.parametrize(("given", "sent_on"), [(None, 1), (0, 1), (5, 5)])
def test_logprobs_are_on_without_alternatives(given: int | None, sent_on: int) -> None:
    assert sent(logprobs=True, top_logprobs=given)["top_logprobs"] == sent_on


def test_alternatives_that_were_not_requested_are_removed() -> None:
    token = {"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "a", "logprob": -1.0}]}
    corrected = AnswerCorrection(ask(logprobs=True)).correct(0, chunk("a", logprobs={"content": [token]}))
    assert corrected is not None
    assert corrected["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_null_content_becomes_empty() -> None:
    corrected = AnswerCorrection(ask()).correct(0, chunk(None))
    assert corrected is not None
    assert corrected["choices"][0]["delta"]["content"] == ""


def test_progress_is_passed_on_only_on_request() -> None:
    progress = {**chunk(None), "prompt_progress": {"total": 9}}
    assert AnswerCorrection(ask()).correct(0, dict(progress)) is None
    assert AnswerCorrection(ask(return_progress=True)).correct(0, dict(progress))


def test_the_choices_become_one_stream_with_one_usage() -> None:
    correction = AnswerCorrection(ask(n=2))
    first = correction.correct(0, chunk("a"))
    second = correction.correct(1, {**chunk("b"), "id": "b", "created": 2})
    assert first is not None and second is not None
    assert (second["id"], second["created"], second["choices"][0]["index"]) == (first["id"], first["created"], 1)
    assert correction.correct(0, usage_chunk(10, 3)) is None
    assert correction.correct(1, usage_chunk(10, 4)) is None
    assert correction.usage_chunk()["usage"] == usage_chunk(10, 7)["usage"]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (
            {"code": 400, "type": "exceed_context_size_error", "message": "too long"},
            EngineRefused,
            "context_length_exceeded",
        ),
        ({"code": 400, "type": "invalid_request_error", "message": "bad"}, EngineRefused, "invalid_value"),
        ({"code": 500, "type": "server_error", "message": "decode failed"}, EngineError, "engine_error"),
        ({"code": 503, "type": "unavailable_error", "message": "loading"}, EngineError, "engine_error"),
    ],
)
def test_error_objects(error: dict[str, Any], kind: type[Exception], code: str) -> None:
    translated = error_from(error, ask())
    assert type(translated) is kind
    assert (translated.message, translated.code) == (error["message"], code)


GENERATION = "Unable to generate parser for this template. Automatic parser generation failed: "


@pytest.mark.parametrize(
    ("message", "request_fields", "param"),
    [
        ("Failed to parse tools: Expected 'tools' to be an array; tools = 7", {}, "tools"),
        ("Failed to parse tool call arguments as JSON: [json.exception]", {}, "messages"),
        ("image input is not supported - hint: you may need the mmproj", {}, "messages"),
        ("Invalid tool_choice: x", {}, "tool_choice"),
        ("Field 'top_k': type must be number", {}, "top_k"),
        (f"{GENERATION}JSON schema error at #: unrecognized type x", {"tools": TOOLS}, "tools"),
        (f"{GENERATION}JSON schema error", {"response_format": {"type": "json_schema"}}, "response_format"),
        ("failed to parse grammar", {"response_format": {"type": "json_schema"}}, "response_format"),
        ("failed to parse grammar", {"grammar": "x"}, "grammar"),
        ("something else", {}, None),
    ],
)
def test_a_refusal_names_the_field(message: str, request_fields: dict[str, Any], param: str | None) -> None:
    assert refusal(message, ask(**request_fields)).param == param


def test_a_grammar_error_is_reported_as_a_schema_error() -> None:
    refused = refusal("Failed to initialize samplers: failed to parse grammar", ask(response_format={"type": "x"}))
    assert refused.message.startswith("The schema in 'response_format' cannot be used")
    assert refused.param == "response_format"


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (f"{GENERATION}JSON schema error at #: x", "JSON schema error at #: x"),
        (f"{GENERATION}\n------\nWhile executing\nError: Expected an object", "Error: Expected an object"),
        ("Failed to parse tools: no list; tools = [\n 7\n]", "Failed to parse tools: no list"),
    ],
)
def test_template_errors_are_shortened(said: str, heard: str) -> None:
    assert error_from({"code": 400, "message": said}, ask(tools=TOOLS)).message == heard


@pytest.mark.parametrize("message", ["Failed to parse tools: x", "audio input is not supported - hint"])
def test_a_500_for_an_invalid_request_is_a_refusal(message: str) -> None:
    assert isinstance(error_from({"code": 500, "type": "server_error", "message": message}, ask()), EngineRefused)


# ── values ──


@pytest.mark.parametrize(
    ("fields", "corrected"),
    [
        ({"max_tokens": 2**63 - 1}, {"max_tokens": 2**31 - 1}),
        ({"max_completion_tokens": 2**31}, {"max_completion_tokens": 2**31 - 1}),
        ({"stop": ""}, {"stop": []}),
        ({"stop": ["", "a"]}, {"stop": ["a"]}),
        ({"stop": "a"}, {"stop": ["a"]}),
    ],
)
def test_values_that_llama_cpp_would_misread(fields: dict[str, Any], corrected: dict[str, Any]) -> None:
    assert corrected.items() <= sent(**fields).items()


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 2, 2**32 - 1, 2**32, 2**63 - 1, -1, -(2**63)])
def test_every_seed_differs_from_the_value_for_no_seed(seed: int) -> None:
    seeds = [request["seed"] for request in request_per_choice(ask(seed=seed, n=3))]
    assert len(set(seeds)) == 3
    assert all(0 <= each < 2**32 - 1 for each in seeds)


def test_n_cmpl_is_removed_too() -> None:
    assert "n_cmpl" not in sent(n_cmpl=4)


def test_refusals_and_calls_without_arguments_are_translated() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}
    refused, said, called = sent(
        messages=[
            {"role": "assistant", "content": None, "refusal": "No."},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}, {"type": "text", "text": "Hi"}]},
            {"role": "assistant", "tool_calls": [call]},
        ]
    )["messages"]
    assert refused["content"] == "No."
    assert said["content"] == [{"type": "text", "text": "No."}, {"type": "text", "text": "Hi"}]
    assert called["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert call["function"]["arguments"] == ""


def test_audio_output_is_refused() -> None:
    with pytest.raises(EngineRefused) as refused:
        sent(modalities=["text", "audio"])
    assert refused.value.param == "modalities"


@pytest.mark.parametrize(
    ("listed", "modalities"),
    [
        ({"architecture": {"input_modalities": ["text", "image"]}}, ("text", "image")),
        ({"architecture": {}}, ()),
        ({"architecture": "qwen3"}, ()),
        ({}, ()),
    ],
)
def test_the_modalities_of_a_model(listed: dict[str, Any], modalities: tuple[str, ...]) -> None:
    assert input_modalities(listed) == modalities
