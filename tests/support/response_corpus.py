"""Valid requests for responses that together contain every field that OpenAI publishes and Ignite takes."""

from typing import Any

from tests.producer.api import MODEL

FUNCTION = {"type": "function", "name": "f", "description": "x", "parameters": {"type": "object"}, "strict": True}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
CUSTOM = {"type": "custom", "name": "run", "description": "Runs it.", "format": GRAMMAR}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1", "status": "completed"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "sunny"}]}
RUN = {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": "a"}
RAN = {"type": "custom_tool_call_output", "call_id": "c2", "output": "b"}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "s"}],
    "content": [{"type": "reasoning_text", "text": "hm"}],
}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so", "annotations": []}]}
REFUSED = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
PARTS = [
    {"type": "input_text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}},
    {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
    {"type": "input_file", "file_data": "data:text/plain;base64,AAAA", "filename": "a.txt"},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
]
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "description": "d", "strict": True}


def request(input: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": input, "max_output_tokens": 5, **fields}


RESPONSE_CORPUS: dict[str, dict[str, Any]] = {
    "text": request(instructions="Be brief.", metadata={"a": "b"}, store=False, user="u"),
    "parts": request([{"role": "user", "content": PARTS}, {"role": "developer", "content": "d"}, SAID, REFUSED]),
    "tools": request(
        [{"role": "user", "content": "x"}, THOUGHT, CALL, RUN, OUTPUT, RAN],
        tools=[FUNCTION, CUSTOM],
        tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        parallel_tool_calls=False,
        max_tool_calls=3,
    ),
    "streamed": request(stream=True, stream_options={"include_obfuscation": False}),
    "background": request(background=True, store=True, service_tier="flex", deadline_seconds=60),
    "shapes": request(text={"format": SCHEMA, "verbosity": "low"}, reasoning={"effort": "low", "summary": "auto"}),
    "log probabilities": request(include=["message.output_text.logprobs"], top_logprobs=2, truncation="auto"),
    "sampling": request(
        temperature=0.5,
        top_p=0.9,
        prompt_cache_key="k",
        prompt_cache_options={"mode": "implicit"},
        prompt_cache_retention="24h",
        safety_identifier="s",
        moderation={"model": "m"},
        top_k=3,
        seed=1,
    ),
}
