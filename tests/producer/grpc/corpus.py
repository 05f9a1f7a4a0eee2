"""Request bodies that together have every field, and an answer with every field."""

from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "minLength": 1}, "days": {"enum": [1, 2, None, 0.5]}},
            "required": [],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
SHELL = {
    "type": "custom",
    "custom": {
        "name": "shell",
        "description": "Anything",
        "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": ".*"}},
    },
}
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place":"Århus"}'}},
    {"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "ls\n"}},
]
CONVERSATION = [
    {"role": "developer", "content": "Be brief.", "name": "dev"},
    {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
    {"role": "user", "content": "What is the weather in Århus? \U0001f324 \u0000 \u2028", "name": "ann"},
    {"role": "assistant", "content": None, "tool_calls": CALLS, "reasoning_content": "Hm.", "reasoning": "Hm."},
    {"role": "tool", "content": "Rain", "tool_call_id": "call_1"},
    {"role": "tool", "content": [{"type": "text", "text": ""}], "tool_call_id": "call_2"},
    {"role": "assistant", "content": "", "refusal": "No.", "name": "bot"},
    {"role": "user", "content": [{"type": "text", "text": "seed=7"}, {"type": "text", "text": "and more"}]},
]
CORPUS: dict[str, dict[str, Any]] = {
    "the reference's first example": {
        "messages": [
            {"role": "system", "content": "You are a concise assistant."},
            {"role": "user", "content": "Summarize the CAP theorem in one sentence."},
        ],
        "max_tokens": 256,
        "temperature": 0.7,
        "top_p": 0.95,
        "response_format": {"type": "text"},
    },
    "the reference's second example": {
        "messages": [{"role": "user", "content": "Write a haiku about distributed systems."}],
        "stream": True,
        "max_tokens": 128,
    },
    "a conversation": {"messages": CONVERSATION, "tools": [WEATHER, SHELL]},
    "an older conversation": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": ""}},
            {"role": "function", "name": "weather", "content": None},
            {"role": "assistant", "content": "Rain.", "audio": {"id": "audio_1"}},
            {"role": "user", "content": "Thanks"},
        ],
        "functions": [WEATHER["function"]],
        "function_call": {"name": "weather"},
    },
    "sampling": {
        "max_completion_tokens": 5,
        "temperature": 0,
        "top_p": 1,
        "n": 2,
        "stop": ["\n\n", "END"],
        "seed": 9223372036854775807,
        "frequency_penalty": -2,
        "presence_penalty": 1.5,
        "logit_bias": {"50256": -100, "7": 0.5},
        "logprobs": True,
        "top_logprobs": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    },
    "tools": {
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
    },
    "a schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "thing", "schema": {"type": "array", "maxItems": 3, "items": {}}, "strict": True},
        }
    },
    "what a model says about itself": {
        "modalities": ["text"],
        "audio": {"format": "wav", "voice": {"id": "voice_1"}},
        "prediction": {"type": "content", "content": [{"type": "text", "text": "x"}]},
        "reasoning_effort": "low",
        "verbosity": "low",
        "web_search_options": {"user_location": {"type": "approximate", "approximate": {"city": "Århus"}}},
        "moderation": {"model": "m", "policy": {"input": {"mode": "score"}, "output": None}},
    },
    "what a client says about itself": {
        "metadata": {"team": "ü", "": ""},
        "store": True,
        "service_tier": "flex",
        "user": "ann",
        "safety_identifier": "a1",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "implicit"},
        "deadline_seconds": 600,
        "background": False,
    },
    "what engines know": {
        "top_k": 40,
        "min_p": 0.05,
        "typical_p": 1,
        "repetition_penalty": 1.1,
        "repeat_penalty": 1,
        "min_tokens": 0,
        "ignore_eos": False,
        "stop_token_ids": [1, 2],
        "skip_special_tokens": True,
        "structured_outputs": {"choice": ["a", "b"]},
        "grammar": "root ::= .",
        "chat_template_kwargs": {"enable_thinking": False, "depth": 1},
        "add_generation_prompt": True,
        "continue_final_message": False,
        "include_reasoning": True,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "nulls": {
        "stop": None,
        "tool_choice": None,
        "response_format": None,
        "temperature": None,
        "tools": None,
        "metadata": None,
        "stream_options": None,
    },
    "nothing in lists and objects": {"tools": [], "stop": [], "logit_bias": {}, "metadata": {}},
}
LEFT_OUT = {"extra_body", "extra_fields", "webhook_url", "index"}
"""Not for HTTP, not for gRPC, or only in answers."""

FUNCTION = {"name": "weather", "arguments": "{}"}
MESSAGE = {
    "content": "Rain \u0000\U0001f327",
    "refusal": "No.",
    "tool_calls": [
        {"index": 0, "id": "call_1", "type": "function", "function": FUNCTION},
        {"index": 1, "id": "call_2", "type": "custom", "custom": {"name": "shell", "input": ""}, "mood": "good"},
    ],
    "function_call": FUNCTION,
    "annotations": [
        {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 4, "title": "T", "url": "http://x"}}
    ],
    "audio": {"id": "a", "data": "AA==", "expires_at": 1748390400, "transcript": "t"},
    "reasoning_content": "Hm.",
    "reasoning": "Hm.",
    "thought": {"depth": 2, "of": [None, "x"]},
}
LOGPROBS = {
    "content": [
        {
            "token": " t",
            "logprob": -0.25,
            "bytes": [32, 116],
            "top_logprobs": [{"token": "�", "logprob": -9999.0, "bytes": [255], "rank": 1}],
        },
    ],
    "refusal": [{"token": "", "logprob": 0.0, "bytes": None, "top_logprobs": []}],
}
USAGE = {
    "prompt_tokens": 0,
    "completion_tokens": 3,
    "total_tokens": 3,
    "completion_tokens_details": {
        "accepted_prediction_tokens": 1,
        "audio_tokens": 2,
        "reasoning_tokens": 3,
        "rejected_prediction_tokens": 4,
        "text_tokens": 5,
    },
    "prompt_tokens_details": {
        "audio_tokens": 1,
        "cached_tokens": 2,
        "cache_write_tokens": 3,
        "image_tokens": 4,
        "text_tokens": 5,
    },
    "seconds": 0.5,
}
