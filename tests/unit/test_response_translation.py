"""A request for a response as a chat request: what each field becomes, and which field an error names."""

from typing import Any

import orjson
import pytest
from openai.types.responses import Response

from producer.responses.conversation import Conversation
from producer.responses.ids import item_place, job_id_of, response_id
from producer.responses.kept import kept_of
from producer.responses.request import check_responses_request
from producer.responses.translate import Earlier, Translated, translated
from shared.errors import InvalidRequest
from shared.job import new_job_id

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USER = {"role": "user", "content": "hi"}


def translate(earlier: Earlier | None = None, limit: int = 10**6, **fields: Any) -> Translated:
    request = check_responses_request({"model": "m", "input": "hi"} | fields)
    return translated(request, earlier or Earlier(), background=bool(fields.get("background")), limit=limit)


def chat(**fields: Any) -> dict[str, Any]:
    body = orjson.loads(translate(**fields).body)
    return {name: value for name, value in body.items() if name not in ("ignite_response", "stream", "stream_options")}


def messages(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    return chat(input=list(items), **fields)["messages"]


def refusal(**fields: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as refused:
        translate(**fields)
    return refused.value.param, refused.value.message


def test_a_text() -> None:
    assert chat() == {"model": "m", "messages": [USER], "store": True}


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"max_output_tokens": 9}, {"max_completion_tokens": 9}),
        ({"temperature": 0.5, "top_p": 0.1}, {"temperature": 0.5, "top_p": 0.1}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        (
            {"tools": [FUNCTION]},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "parameters": {"type": "object", "properties": {}},
                            "strict": True,
                        },
                    }
                ]
            },
        ),
        (
            {"tools": [{"type": "custom", "name": "c", "format": {"type": "text"}}]},
            {"tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}]},
        ),
        (
            {
                "tools": [
                    {
                        "type": "custom",
                        "name": "c",
                        "format": {"type": "grammar", "syntax": "regex", "definition": "a+"},
                    }
                ]
            },
            {
                "tools": [
                    {
                        "type": "custom",
                        "custom": {
                            "name": "c",
                            "format": {"type": "grammar", "grammar": {"definition": "a+", "syntax": "regex"}},
                        },
                    }
                ]
            },
        ),
        (
            {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
            {"logprobs": True, "top_logprobs": 2},
        ),
        ({"top_logprobs": 2}, {}),
        ({"include": ["file_search_call.results", "reasoning.encrypted_content"]}, {}),
        (
            {"parallel_tool_calls": False, "service_tier": "flex"},
            {"parallel_tool_calls": False, "service_tier": "flex"},
        ),
        ({"prompt_cache_key": "k", "safety_identifier": "s", "user": "u"},) * 2,
        ({"metadata": {"a": "b"}, "deadline_seconds": 3.0},) * 2,
        ({"top_k": 3, "seed": 5, "chat_template_kwargs": {"enable_thinking": False}},) * 2,
        ({"store": False}, {"store": False}),
        ({"max_tool_calls": 3, "truncation": "disabled", "stream_options": None}, {}),
    ],
    ids=str,
)
def test_fields(field: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(**field) == {"model": "m", "messages": [USER], "store": True} | expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        ),
    ],
    ids=str,
)
def test_tool_choice(choice: Any, expected: Any) -> None:
    assert chat(tools=[FUNCTION], tool_choice=choice)["tool_choice"] == expected


def test_instructions_come_first() -> None:
    found = translate(instructions="be kind")
    assert orjson.loads(found.body)["messages"] == [{"role": "system", "content": "be kind"}, USER]
    kept, others = kept_of(found.body)
    assert (kept.instructed, others) == (True, [USER])


def assistant(content: str | None, *calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | ({"tool_calls": list(calls)} if calls else {}) | more


SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
CALL_2 = CALL | {"call_id": "c2"}
CHAT_CALL_2 = CHAT_CALL | {"id": "c2"}
OUTPUT_2 = OUTPUT | {"call_id": "c2"}
TOOL_2 = TOOL | {"tool_call_id": "c2"}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([USER], [USER]),
        ([{"type": "message", **USER}], [USER]),
        ([{"role": "developer", "content": "d"}, USER], [{"role": "developer", "content": "d"}, USER]),
        ([{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], [USER]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x", "detail": "low"}]}],
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}]}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_file", "file_data": "eA==", "filename": "x.pdf"}]}],
            [{"role": "user", "content": [{"type": "file", "file": {"file_data": "eA==", "filename": "x.pdf"}}]}],
        ),
        ([USER, SAID, USER], [USER, assistant("let me see"), USER]),
        ([USER, {"role": "assistant", "content": "yes"}, USER], [USER, assistant("yes"), USER]),
        (
            [USER, {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, USER],
            [USER, assistant("", refusal="no"), USER],
        ),
        ([USER, CALL, OUTPUT], [USER, assistant(None, CHAT_CALL), TOOL]),
        ([USER, SAID, CALL, OUTPUT], [USER, assistant("let me see", CHAT_CALL), TOOL]),
        (
            [USER, CALL, CALL_2, OUTPUT_2, OUTPUT],
            [USER, assistant(None, CHAT_CALL, CHAT_CALL_2), TOOL, TOOL_2],
        ),
        (
            [USER, CALL, OUTPUT, CALL_2, OUTPUT_2],
            [USER, assistant(None, CHAT_CALL), TOOL, assistant(None, CHAT_CALL_2), TOOL_2],
        ),
        (
            [USER, CALL, OUTPUT, CALL, OUTPUT | {"output": "rain"}],
            [USER, assistant(None, CHAT_CALL), TOOL, assistant(None, CHAT_CALL), TOOL | {"content": "rain"}],
        ),
        ([USER, CALL, USER, OUTPUT], [USER, assistant(None, CHAT_CALL), TOOL, USER]),
        ([USER, THOUGHT, CALL, OUTPUT], [USER, assistant(None, CHAT_CALL, reasoning_content="hm"), TOOL]),
        ([USER, THOUGHT, SAID, USER], [USER, assistant("let me see"), USER]),
        (
            [USER, CALL, OUTPUT | {"output": [{"type": "input_text", "text": "sunny"}]}],
            [USER, assistant(None, CHAT_CALL), TOOL],
        ),
        (
            [
                USER,
                {"type": "custom_tool_call", "call_id": "c1", "name": "c", "input": "x"},
                {"type": "custom_tool_call_output", "call_id": "c1", "output": "sunny"},
            ],
            [USER, assistant(None, {"id": "c1", "type": "custom", "custom": {"name": "c", "input": "x"}}), TOOL],
        ),
    ],
    ids=str,
)
def test_items(items: list[Any], expected: list[Any]) -> None:
    assert messages(*items) == expected


def test_a_chain_has_the_earlier_messages_and_the_answer() -> None:
    earlier = Earlier([USER], [{"id": "fc_1", "status": "completed", **CALL}])
    found = translate(earlier, input=[OUTPUT], previous_response_id="resp_x", instructions="be kind")
    system = {"role": "system", "content": "be kind"}
    assert orjson.loads(found.body)["messages"] == [system, USER, assistant(None, CHAT_CALL), TOOL]


def test_a_reference_becomes_its_item() -> None:
    earlier = Earlier(items={"msg_1": {"id": "msg_1", "status": "completed", **SAID}})
    found = translate(earlier, input=[USER, {"type": "item_reference", "id": "msg_1"}, USER])
    assert orjson.loads(found.body)["messages"] == [USER, assistant("let me see"), USER]
    assert found.kept.items[1]["id"] == "msg_1"


IMAGE = {"type": "input_image", "image_url": "data:x"}


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("model", {"model": None}),
        ("input", {"input": None}),
        ("input", {"input": []}),
        ("input", {"input": 5}),
        ("input[0]", {"input": [5]}),
        ("input[0].type", {"input": [{"type": "web_search_call", "id": "x"}]}),
        ("input[0].content", {"input": [{"role": "user"}]}),
        ("input[0].role", {"input": [{"role": "tool", "content": "x"}]}),
        ("input[0].content[0].text", {"input": [{"role": "user", "content": [{"type": "input_text"}]}]}),
        ("input[0].content[0].type", {"input": [{"role": "system", "content": [IMAGE]}]}),
        (
            "input[0].content[0].image_url",
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
        ),
        (
            "input[0].content[0].file_url",
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://x/"}]}]},
        ),
        ("input[0].encrypted_content", {"input": [THOUGHT | {"encrypted_content": "x"}]}),
        ("input[2].output[0].type", {"input": [USER, CALL, OUTPUT | {"output": [IMAGE]}]}),
        ("input", {"input": [USER, CALL]}),
        ("input[1]", {"input": [USER, OUTPUT]}),
        ("tools[1].type", {"tools": [FUNCTION, {"type": "web_search"}]}),
        ("tools[0].type", {"tools": [{"type": "mcp", "server_label": "x"}]}),
        ("tools[0].name", {"tools": [{"type": "function"}]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}),
        ("tool_choice.type", {"tools": [FUNCTION], "tool_choice": {"type": "file_search"}}),
        ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "n"}}}),
        ("text.format.type", {"text": {"format": {"type": "xml"}}}),
        ("reasoning.effort", {"reasoning": {"effort": "extreme"}}),
        ("include[0]", {"include": ["everything"]}),
        ("store", {"background": True, "store": False}),
        ("stream_options", {"stream_options": {}}),
        ("temperature", {"temperature": 3.0}),
        ("conversation", {"conversation": "conv_1"}),
        ("prompt", {"prompt": {"id": "pmpt_1"}}),
        ("context_management", {"context_management": [{"type": "compaction"}]}),
        ("messages", {"messages": [USER]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("max_tokens", {"max_tokens": 5}),
        ("n", {"n": 2}),
        ("metadata", {"metadata": {str(index): "x" for index in range(17)}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_clients_field(param: str, fields: dict[str, Any]) -> None:
    found, message = refusal(**fields)
    assert found == param
    assert "messages[" not in message


def test_a_chain_is_bounded() -> None:
    earlier = Earlier([{"role": "user", "content": "x" * 2000}])
    param, message = refusal(earlier=earlier, previous_response_id="resp_x", limit=1000)
    assert param == "previous_response_id"
    assert "1,000" in message


def test_what_the_response_repeats_is_of_openais_types() -> None:
    tools = [
        FUNCTION,
        {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
    ]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    found = translate(
        tools=tools, tool_choice=choice, text={"format": schema, "verbosity": "low"}, reasoning={"effort": "high"}
    )
    about = {"id": "resp_1", "object": "response", "created_at": 1, "status": "queued", "model": "m", "output": []}
    response = Response.model_validate_json(orjson.dumps(about | found.kept.echo), strict=True)
    assert (
        response.tool_choice
        == Response.model_validate(
            about | {"tool_choice": choice, "tools": [], "parallel_tool_calls": True}
        ).tool_choice
    )
    assert [tool.type for tool in response.tools] == ["function", "custom"]
    assert response.text and response.text.verbosity == "low"


def test_ids_are_the_jobs() -> None:
    job_id = new_job_id()
    assert job_id_of(response_id(job_id)) == job_id
    assert job_id_of("resp_x") is job_id_of(job_id) is None
    items = translate(input=[USER, CALL, OUTPUT]).kept.input_items(job_id)
    for index, item in enumerate(items):
        place = item_place(item["id"])
        assert place is not None
        assert (place.job_id, place.in_input, place.index) == (job_id, True, index)


def test_an_empty_conversation_closes() -> None:
    conversation = Conversation()
    conversation.extend([])
    assert conversation.messages == []


def turn(number: int, size: int = 400) -> list[dict[str, Any]]:
    """About 100 tokens with its answer."""
    said = [{"role": "user", "content": f"{number}" + "x" * (size // 2)}, assistant(f"{number}" + "y" * (size // 2))]
    return [{**message, "type": "message"} for message in said]


@pytest.mark.parametrize(("context", "turns"), [(2000, [0, 1, 2, 3]), (600, [1, 2, 3]), (500, [2, 3]), (10, [])])
def test_truncation_leaves_out_the_oldest_turns(context: int, turns: list[int]) -> None:
    items = [item for number in range(4) for item in turn(number)]
    request = check_responses_request(
        {"model": "m", "input": [*items, USER], "truncation": "auto", "instructions": "be kind"}
    )
    found = translated(request, Earlier(), background=False, limit=10**6, context=context)
    first, *others = orjson.loads(found.body)["messages"]
    assert first["role"] == "system"
    assert [int(message["content"][0]) for message in others[:-1:2]] == turns
    assert others[-1] == USER
    assert len(found.sources) == len(others) + 1


def test_truncation_keeps_calls_with_their_outputs() -> None:
    items = [{"role": "user", "content": "x" * 4000}, CALL, OUTPUT, USER, CALL_2, OUTPUT_2]
    request = check_responses_request({"model": "m", "input": items, "truncation": "auto"})
    found = translated(request, Earlier(), background=False, limit=10**6, context=500)
    assert orjson.loads(found.body)["messages"] == [USER, assistant(None, CHAT_CALL_2), TOOL_2]
