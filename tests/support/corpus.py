"""Valid requests that together contain every field that OpenAI publishes."""

from typing import Any

from tests.producer.api import MODEL

TEXT = {"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA", "filename": "a.txt"}}
FUNCTION = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
    },
}
TOOL = {"type": "function", "function": {**FUNCTION, "strict": True}}
LARK = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "a"'}}
CUSTOM = {"type": "custom", "custom": {"name": "run", "description": "Runs it.", "format": LARK}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
RUN = {"id": "call_2", "type": "custom", "custom": {"name": "run", "input": "a"}}


def request(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [*messages] or [{"role": "user", "content": "Hi"}], "max_tokens": 5, **fields}


CORPUS: dict[str, dict[str, Any]] = {
    "sampling": request(
        {"role": "developer", "content": [TEXT], "name": "us"},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "name": "me"},
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        temperature=0.7,
        top_p=0.9,
        seed=2**63 - 1,
        n=2,
        stop=["a", "b"],
        logit_bias={"5": -1, "7": 1.5},
        logprobs=True,
        top_logprobs=2,
    ),
    "streamed": request(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}, stop="x"),
    "tools": request(
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, RUN]},
        {"role": "tool", "tool_call_id": "call_1", "content": [TEXT]},
        {"role": "tool", "tool_call_id": "call_2", "content": "a"},
        tools=[TOOL, CUSTOM],
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_weather"}}]},
        },
        parallel_tool_calls=True,
    ),
    "a named tool": request(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "get_weather"}}),
    "functions": request(
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "function_call": CALL["function"], "content": None},
        {"role": "function", "name": "get_weather", "content": "18C"},
        functions=[FUNCTION],
        function_call={"name": "get_weather"},
    ),
    "a schema": request(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "description": "A city.", "schema": FUNCTION["parameters"], "strict": True},
        }
    ),
    "JSON": request(response_format={"type": "json_object"}, reasoning_effort="low", verbosity="low"),
    "parts": request(
        {"role": "user", "content": [TEXT, IMAGE, AUDIO, FILE]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "No."}, {"type": "refusal", "refusal": "No."}],
            "refusal": "No.",
            "reasoning_content": "Hm.",
            "audio": {"id": "audio_1"},
        },
        {"role": "user", "content": "Why?"},
    ),
    "audio": request(modalities=["text", "audio"], audio={"format": "wav", "voice": {"id": "voice_1"}}),
    "whose": request(
        metadata={"a": "b"},
        user="me",
        safety_identifier="me",
        prompt_cache_key="k",
        prompt_cache_options={"mode": "implicit", "ttl": "30m"},
        prompt_cache_retention="24h",
        service_tier="flex",
        store=True,
    ),
    "beside": request(
        moderation={"model": "m", "policy": {"input": {"mode": "score"}, "output": None}},
        prediction={"type": "content", "content": [TEXT]},
        web_search_options={
            "search_context_size": "low",
            "user_location": {
                "type": "approximate",
                "approximate": {"city": "Paris", "country": "FR", "region": "x", "timezone": "Europe/Paris"},
            },
        },
    ),
    "a job": request(background=True, deadline_seconds=60, max_completion_tokens=5),
    "an engine's own": request(
        top_k=5, min_p=0.1, chat_template_kwargs={"enable_thinking": False}, ignore_eos=True, priority=1
    ),
}
