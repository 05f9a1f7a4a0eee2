"""Observed responses of servers, each with the message that a client must get. A body is a list of events: a dict
becomes a `data:` event, bytes are sent unchanged. `[DONE]` follows by default.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.frames import DONE, frame

Event = dict[str, Any] | bytes
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
CITATION = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}
TOKEN = {"token": "Hello", "logprob": -0.5, "bytes": None, "top_logprobs": []}


def piece(delta: Any = None, finish: Any = None, **choice: Any) -> dict[str, Any]:
    part = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish, **choice}
    return {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": [part]}


def tool(*calls: dict[str, Any]) -> dict[str, Any]:
    return piece({"tool_calls": [*calls]})


def call(index: Any = 0, id: Any = "call_1", name: Any = "look", arguments: Any = "", **more: Any) -> dict[str, Any]:
    return {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def rest(arguments: Any, index: Any = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}, **more}


COST = {**piece(), "choices": [], "usage": USAGE}
BEGIN = piece({"role": "assistant", "content": ""})
HEL, LO, END = piece({"content": "Hel"}), piece({"content": "lo"}), piece({}, "stop")
CALLED = piece({}, "tool_calls")
HI = [BEGIN, HEL, LO, END, COST]
QUERY = '{"q":"a"}'


@dataclass(frozen=True)
class Accent:
    """`message`: the message's fields besides `role`; `ids`: whether the tool calls' ids are the server's."""

    events: list[Event]
    message: dict[str, Any] = field(default_factory=lambda: {"content": "Hello"})
    finish: str = "stop"
    usage: dict[str, Any] = field(default_factory=lambda: USAGE)
    logprobs: Any = None
    done: bytes = DONE
    more: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def body(self) -> bytes:
        sent = (event if isinstance(event, bytes) else frame(event) for event in self.events)
        return b"".join(sent) + self.done


def changed(**fields: Any) -> list[Event]:
    """Returns the chunks with changed fields."""
    of_choice = fields.pop("choice", {})
    return [{**event, **fields, "choices": [{**part, **of_choice} for part in event["choices"]]} for event in HI]


def without(name: str) -> list[Event]:
    return [
        {**event, "choices": [{k: v for k, v in part.items() if k != name} for part in event["choices"]]}
        for event in HI
    ]


def calls(*made: tuple[str, str], content: str | None = None) -> dict[str, Any]:
    """Returns a message that calls the tool `look`, with these ids and arguments."""
    functions = [
        {"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}} for id, arguments in made
    ]
    return {"content": content, "tool_calls": functions}


def raw(text: str) -> bytes:
    return b"data: " + text.encode() + b"\n\n"


def content_raw(text: str) -> bytes:
    """Returns a chunk with this raw JSON text as content."""
    return raw('{"id":"u","choices":[{"index":0,"delta":{"content":"' + text + '"},"finish_reason":null}]}')


ONE = calls(("call_1", QUERY))
TWO = calls(("call_1", QUERY), ("call_2", '{"q":"b"}'))
A_B = [call(0, "call_1", arguments=QUERY), call(0, "call_2", arguments='{"q":"b"}')]

ACCENTS: dict[str, Accent] = {
    # events
    "as it should be": Accent(HI),
    "carriage returns": Accent([frame(event).replace(b"\n", b"\r\n") for event in HI], done=b"data: [DONE]\r\n\r\n"),
    "carriage returns alone": Accent([frame(event).replace(b"\n", b"\r") for event in HI], done=b"data: [DONE]\r\r"),
    "one line feed": Accent([frame(event)[:-1] for event in HI]),
    "a byte order mark": Accent([b"\xef\xbb\xbf" + frame(BEGIN), *HI[1:]]),
    "comments and names": Accent([b": ping\n\n:\n\nevent: message\nid: 7\nretry: 3\n" + frame(BEGIN), *HI[1:]]),
    "lines without a name": Accent([orjson.dumps(event) + b"\n\n" for event in HI], done=b"[DONE]\n\n"),
    "blanks before the first event": Accent([b"\n \n\n", *HI]),
    "null, nothing, and a ping": Accent([raw("null"), raw(""), raw("{}"), {"object": "ping"}, *HI]),
    "done with a space": Accent(HI, done=b"data: [DONE] \n\n"),
    "done in quotes": Accent(HI, done=b'data: "[DONE]"\n\n'),
    "done without a blank line": Accent(HI, done=b"data: [DONE]"),
    "no done": Accent(HI, done=b""),
    "words after done": Accent(HI, done=DONE + b"data: whatever\n\n"),
    "keep-alives put into data": Accent(
        [raw(": OPENROUTER PROCESSING"), raw("ping"), raw('"heartbeat"'), b"event: ping\ndata: {}\n\n", *HI]
    ),
    "events put into events": Accent([b"data: " + frame(event) for event in HI], done=b"data: data: [DONE]\n\n"),
    "a capital, and blanks before": Accent(
        [(b"  data:" if at % 2 else b"Data: ") + orjson.dumps(event) + b"\n\n" for at, event in enumerate(HI)]
    ),
    "done as a word": Accent(HI, done=b"event: done\ndata: done\n\n"),
    "a second answer after done": Accent([*HI, DONE, *HI]),
    "two values in one event": Accent([b"data: " + orjson.dumps(BEGIN) + orjson.dumps(HEL) + b"\n\n", *HI[2:]]),
    # a whole answer instead of a stream
    "one completion": Accent(
        [orjson.dumps({**COST, "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]})],
        done=b"",
    ),
    "one completion after blanks": Accent(
        [b"\n\n   " + orjson.dumps({**COST, "choices": [{"message": {"content": "Hello"}}]})], done=b""
    ),
    "a message in an event": Accent([{**COST, "choices": [{"message": {"content": "Hello"}}]}]),
    "a message beside the delta": Accent(changed(choice={"message": {"content": "no"}})),
    "the whole message at the end": Accent(
        [
            HEL,
            LO,
            {**COST, "choices": [{"message": {"content": "Hello", "role": "assistant"}, "finish_reason": "stop"}]},
        ]
    ),
    "the whole message at the end, with more in it": Accent(
        [
            piece({"reasoning_content": "Hm"}),
            {
                **COST,
                "choices": [{"message": {"content": "Hello", "reasoning_content": "Hm"}, "finish_reason": "stop"}],
            },
        ],
        {"content": "Hello", "reasoning_content": "Hm"},
    ),
    "a message in pieces": Accent(
        [{**BEGIN, "choices": [{"message": {"content": text}}]} for text in ("Hel", "lo")] + [END, COST]
    ),
    "the text so far each time": Accent(
        [BEGIN, *(piece({"content": "Hello"[:end]}) for end in (2, 4, 5)), piece({"content": "Hello"}, "stop"), COST]
    ),
    "two long texts so far": Accent(
        [piece({"content": "Hello, my dear"}), piece({"content": "Hello, my dear friend."}), END, COST],
        {"content": "Hello, my dear friend."},
    ),
    "the thoughts so far each time": Accent(
        [*(piece({"reasoning_content": "Let me."[:end]}) for end in (3, 5, 7)), *HI],
        {"content": "Hello", "reasoning_content": "Let me."},
    ),
    "a piece that begins as the text does": Accent(
        [piece({"content": text}) for text in ("ha", "haha", "!")] + [END, COST], {"content": "hahaha!"}
    ),
    "a last piece that begins as the text does": Accent(
        [piece({"content": text}) for text in ("1", "10")] + [END, COST], {"content": "110"}
    ),
    "the whole text again with the end": Accent(
        [
            *(piece({"content": text}) for text in ("Hello", ", my", " dear")),
            piece({"content": "Hello, my dear"}, "stop"),
            COST,
        ],
        {"content": "Hello, my dear"},
    ),
    "the whole text again with the end, after one piece": Accent(
        [piece({"content": "Hello, my dear"}), piece({"content": "Hello, my dear"}, "stop"), COST],
        {"content": "Hello, my dear"},
    ),
    "text and thoughts again with the end": Accent(
        [
            *(piece({"reasoning_content": text}) for text in ("Let me", " think of", " it.")),
            *(piece({"content": text}) for text in ("Hello", ", my", " dear")),
            piece({"reasoning_content": "Let me think of it.", "content": "Hello, my dear"}, "stop"),
            COST,
        ],
        {"reasoning_content": "Let me think of it.", "content": "Hello, my dear"},
    ),
    "a short text again with the end": Accent(
        [piece({"content": text}) for text in ("ha", " ha ")] + [piece({"content": "ha ha "}, "stop"), COST],
        {"content": "ha ha ha ha "},
    ),
    "the whole text again before the end": Accent(
        [piece({"content": text}) for text in ("Hello", ", my", " dear", "Hello, my dear")] + [END, COST],
        {"content": "Hello, my dearHello, my dear"},
    ),
    "a last piece that is like a part of the text": Accent(
        [
            *(piece({"content": text}) for text in ("Oh. ", "Hello, ", "my dear")),
            piece({"content": "Hello, my dear"}, "stop"),
            COST,
        ],
        {"content": "Oh. Hello, my dearHello, my dear"},
    ),
    "the older completions": Accent([piece(delta=None, text="Hello"), END, COST], message={"content": ""}, more={}),
    # chunks and choices
    "choices missing or null": Accent([*HI[:4], {"usage": USAGE}, {"choices": None}]),
    "a choice that is null": Accent([{**BEGIN, "choices": [None]}, *HI]),
    "no index": Accent(without("index")),
    "an index as text": Accent(changed(choice={"index": "0"})),
    "an index from one": Accent(changed(choice={"index": 1})),
    "no reasons until the end": Accent([*without("finish_reason")[:3], *HI[3:]]),
    "an empty reason": Accent([*changed(choice={"finish_reason": ""})[:3], *HI[3:]]),
    "a null delta at the end": Accent(
        [*HI[:3], piece(None, "stop") | {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}, COST]
    ),
    "a null error": Accent(changed(error=None)),
    "an error that says nothing": Accent(changed(error={"code": 0, "message": ""})),
    "a role that is not the assistant's": Accent([piece({"role": "model", "content": "Hello"}), END, COST]),
    "no role": Accent(HI[1:]),
    "null beside the content": Accent(
        [
            piece({"content": "Hello", "role": None, "tool_calls": None, "refusal": None, "function_call": None}),
            END,
            COST,
        ]
    ),
    "content after the end": Accent([HEL, END, LO, COST]),
    "two ends": Accent([HEL, LO, END, END, COST]),
    "an end with content": Accent([piece({"content": "Hello"}, "stop"), COST]),
    "no reason, but a usage": Accent([HEL, LO, COST]),
    "a fingerprint": Accent(changed(system_fingerprint="fp"), more={"system_fingerprint": "fp"}),
    "what OpenAI does not know": Accent(
        [
            piece({"content": "Hello"}, token_ids=[1]),
            {**piece({}, "stop", token_ids=[2], stop_reason="x")},
            {**COST, "citations": ["c"]},
        ],
        more={"citations": ["c"], "choice": {"token_ids": [1, 2], "stop_reason": "x"}},
    ),
    # reasons
    **{
        f"ended by {word!r}": Accent([HEL, LO, piece({}, word), COST], finish=meaning)
        for word, meaning in {
            **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "STOP", "FinishReason.STOP"), "stop"),
            **dict.fromkeys(("max_tokens", "MAX_TOKENS", "model_length", "length"), "length"),
            **dict.fromkeys(("SAFETY", "content_filter", "PROHIBITED_CONTENT", "RECITATION"), "content_filter"),
            **dict.fromkeys(("ERROR_TOXIC", "model_armor"), "content_filter"),
            **dict.fromkeys(("ERROR_LIMIT", "incomplete"), "length"),
            "never heard of": "stop",
        }.items()
    },
    "reasons that are none until the end": Accent(
        [*changed(choice={"finish_reason": "None"})[:2], *changed(choice={"finish_reason": "null"})[2:3], *HI[3:]]
    ),
    "a reason in a list": Accent([HEL, LO, piece({}, ["length"]), COST], finish="length"),
    "a reason that is an object": Accent([HEL, LO, piece({}, {"type": "length", "length": 7}), COST], finish="length"),
    # tool calls
    "a call in pieces": Accent(
        [tool(call()), tool(rest('{"q":')), tool(rest('"a"}')), CALLED, COST], ONE, "tool_calls"
    ),
    "index 0 twice": Accent([tool(A_B[0]), tool(A_B[1]), CALLED, COST], TWO, "tool_calls"),
    "index 0 twice in one delta": Accent([tool(*A_B), CALLED, COST], TWO, "tool_calls"),
    "no index at all": Accent(
        [tool({**A_B[0], "index": None}), tool({k: v for k, v in A_B[1].items() if k != "index"}), CALLED, COST],
        TWO,
        "tool_calls",
    ),
    "calls from index 1": Accent([tool(call(1)), tool(rest(QUERY, 1)), CALLED, COST], ONE, "tool_calls"),
    "an index as text in a call": Accent([tool(call("0")), tool(rest(QUERY, "0")), CALLED, COST], ONE, "tool_calls"),
    "id and name again": Accent([tool(call()), tool(call(arguments=QUERY)), CALLED, COST], ONE, "tool_calls"),
    "nulls in what follows": Accent(
        [tool(call()), tool(call(id=None, name=None, arguments=QUERY, type=None)), CALLED, COST], ONE, "tool_calls"
    ),
    "another id in what follows": Accent(
        [tool(call(arguments='{"q":')), tool(call(id="call_9", name=None, arguments='"a"}')), CALLED, COST],
        ONE,
        "tool_calls",
    ),
    "interleaved": Accent(
        [tool(call(0), call(1, "call_2")), tool(rest('{"q":"b"}', 1)), tool(rest(QUERY, 0)), CALLED, COST],
        TWO,
        "tool_calls",
    ),
    "a name that comes late": Accent(
        [tool(call(name=None, arguments='{"q":')), tool(call(id=None, arguments='"a"}')), CALLED, COST],
        ONE,
        "tool_calls",
    ),
    "arguments as an object": Accent([tool(call(arguments={"q": "a"})), CALLED, COST], ONE, "tool_calls"),
    "no arguments": Accent([tool(call(arguments=None)), CALLED, COST], calls(("call_1", "{}")), "tool_calls"),
    "arguments so far each time": Accent(
        [tool(call()), *(tool(rest(QUERY[:end])) for end in (1, 5, len(QUERY))), CALLED, COST], ONE, "tool_calls"
    ),
    "arguments so far, twice": Accent(
        [tool(call(arguments='{"q":')), tool(rest(QUERY)), CALLED, COST], ONE, "tool_calls"
    ),
    "arguments that hold themselves": Accent(
        [tool(call(arguments='{"q":')), tool(rest('{"q":1}')), tool(rest("}")), CALLED, COST],
        calls(("call_1", '{"q":{"q":1}}')),
        "tool_calls",
    ),
    "arguments again at the end": Accent(
        [tool(call()), tool(rest('{"q":')), tool(rest('"a"}')), tool(rest(QUERY)), CALLED, COST], ONE, "tool_calls"
    ),
    "the whole call again": Accent(
        [tool(call(arguments=QUERY)), tool(call(arguments=QUERY)), CALLED, COST], ONE, "tool_calls"
    ),
    "no arguments before the arguments": Accent(
        [tool(call(arguments="{}")), tool(rest('{"q":')), tool(rest('"a"}')), CALLED, COST], ONE, "tool_calls"
    ),
    "no arguments before the arguments, in one": Accent(
        [tool(call(arguments="{}" + QUERY)), CALLED, COST], ONE, "tool_calls"
    ),
    "an empty object": Accent([tool(call(arguments="{}")), CALLED, COST], calls(("call_1", "{}")), "tool_calls"),
    "a function that is null": Accent(
        [tool(call(arguments=QUERY)), tool({"index": 0, "function": None}), CALLED, COST], ONE, "tool_calls"
    ),
    "no level for the function": Accent(
        [tool({"index": 0, "id": "call_1", "name": "look", "arguments": QUERY}), CALLED, COST], ONE, "tool_calls"
    ),
    "a call that ends with stop": Accent([tool(call(arguments=QUERY)), END, COST], ONE, "tool_calls"),
    "a call without an end": Accent([tool(call(arguments=QUERY)), COST], ONE, "tool_calls"),
    "a call by the older name": Accent([tool(call(arguments=QUERY)), piece({}, "tool_use"), COST], ONE, "tool_calls"),
    "no call, but its reason": Accent([HEL, LO, CALLED, COST]),
    "words before a call": Accent(
        [HEL, LO, tool(call(arguments=QUERY)), CALLED, COST], calls(("call_1", QUERY), content="Hello"), "tool_calls"
    ),
    "a custom tool": Accent(
        [
            tool({"index": 0, "id": "c", "type": "custom", "custom": {"name": "run", "input": "a"}}),
            tool({"index": 0, "custom": {"input": "b"}}),
            CALLED,
            COST,
        ],
        {"content": None, "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "run", "input": "ab"}}]},
        "tool_calls",
    ),
    "a thought's signature": Accent(
        [tool(call(arguments=QUERY, extra_content={"google": {"thought_signature": "S"}})), CALLED, COST],
        {
            "content": None,
            "tool_calls": [ONE["tool_calls"][0] | {"extra_content": {"google": {"thought_signature": "S"}}}],
        },
        "tool_calls",
    ),
    "the older function call": Accent(
        [
            piece({"function_call": {"name": "look", "arguments": ""}}),
            piece({"function_call": {"name": None, "arguments": QUERY}}),
            piece({}, "function_call"),
            COST,
        ],
        {"content": None, "function_call": {"name": "look", "arguments": QUERY}},
        "function_call",
    ),
    # messages
    "parts": Accent(
        [
            piece({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}),
            piece({"content": [{"type": "text", "text": "Hel"}, "lo"]}),
            END,
            COST,
        ],
        {"content": "Hello", "reasoning_content": "Hm"},
    ),
    "reasoning": Accent(
        [piece({"reasoning_content": "Let"}), piece({"reasoning_content": " me."}), *HI],
        {"content": "Hello", "reasoning_content": "Let me."},
    ),
    "reasoning's details": Accent(
        [
            piece({"reasoning_details": [{"type": "t", "index": 0, "text": "a"}]}),
            piece({"reasoning_details": [{"type": "t", "index": 0, "text": "b"}]}),
            *HI,
        ],
        {"content": "Hello", "reasoning_details": [{"type": "t", "index": 0, "text": "ab"}]},
    ),
    "a refusal": Accent(
        [piece({"refusal": "I can"}), piece({"refusal": "not."}), END, COST], {"content": None, "refusal": "I cannot."}
    ),
    "annotations": Accent(
        [*HI[:3], piece({"annotations": [CITATION]}), END, COST],
        {"content": "Hello", "annotations": [CITATION]},
    ),
    "audio": Accent(
        [
            piece({"audio": {"id": "a", "data": "AA"}}),
            piece({"audio": {"id": "a", "data": "BB", "expires_at": 7, "transcript": "x"}}),
            END,
            COST,
        ],
        {"content": None, "audio": {"id": "a", "data": "AABB", "expires_at": 7, "transcript": "x"}},
    ),
    # JSON that is none
    "a character in two halves": Accent(
        [content_raw(r"Hello \ud83d"), content_raw(r"\ude00!"), END, COST], {"content": "Hello 😀!"}
    ),
    "half a character": Accent([content_raw(r"Hello \ud83d"), END, COST], {"content": "Hello \ufffd"}),
    "the wrong half": Accent([content_raw(r"\ude00Hello"), END, COST], {"content": "\ufffdHello"}),
    "bytes that are no UTF-8": Accent(
        [content_raw("Hello").replace(b"Hello", b"Hello\xff"), END, COST], {"content": "Hello\ufffd"}
    ),
    "a line feed in a string": Accent(
        [raw('{"choices":[{"delta":{"content":"Hel\tlo"}}]}'), END, COST], {"content": "Hel\tlo"}
    ),
    # log probabilities
    "log probabilities": Accent(
        [piece({"content": "Hello"}, logprobs={"content": [TOKEN]}), END, COST],
        logprobs={"content": [TOKEN], "refusal": None},
    ),
    "as a list": Accent(
        [piece({"content": "Hello"}, logprobs=[{"token": "Hello", "logprob": -0.5}]), END, COST],
        logprobs={"content": [TOKEN], "refusal": None},
    ),
    "as in completions": Accent(
        [
            piece({"content": "Hello"}, logprobs={"tokens": ["Hello"], "token_logprobs": [-0.5], "top_logprobs": None}),
            END,
            COST,
        ],
        logprobs={"content": [TOKEN], "refusal": None},
    ),
    "no number": Accent(
        [
            raw(
                '{"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":{"content":[{"token":"Hello","logprob":-Infinity},{"token":"","logprob":NaN}]}}]}'
            ),
            END,
            COST,
        ],
        logprobs={
            "content": [{**TOKEN, "logprob": -9999.0}, {**TOKEN, "token": "", "logprob": -9999.0}],
            "refusal": None,
        },
    ),
    # usage
    "usage in every chunk": Accent(changed(usage=USAGE)),
    "usage null": Accent(
        [*changed(usage=None)[:4]], usage={"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2}
    ),
    "half a usage": Accent(
        [*HI[:4], {**COST, "usage": {"prompt_tokens": 5, "completion_tokens": None}}],
        usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    ),
    "no completion tokens": Accent([*HI[:4], {**COST, "usage": {"prompt_tokens": 5, "total_tokens": 8}}]),
    "usage by other names": Accent([*HI[:4], {**COST, "usage": {"input_tokens": 5, "output_tokens": 3}}]),
    "usage as text": Accent(
        [*HI[:4], {**COST, "usage": {"prompt_tokens": "5", "completion_tokens": "3", "total_tokens": "8"}}]
    ),
    "usage in Groq's place": Accent([*HI[:3], {**END, "x_groq": {"usage": USAGE}}], more={"x_groq": {"usage": USAGE}}),
}
ACCENTS["the older completions"] = Accent(
    [{**COST, "choices": [{"index": 0, "text": "Hello", "finish_reason": "stop"}]}]
)

REFUSED = {
    "an error object": ({"error": {"message": "too long", "type": "BadRequestError", "code": 400}}, "too long"),
    "its code as text": ({"error": {"message": "too long", "code": "400"}}, "too long"),
    "an older error": ({"object": "error", "message": "too long", "code": 422}, "too long"),
    "a spent quota": ({"error": {"message": "no credit", "code": "insufficient_quota"}}, "no credit"),
    "too long a prompt": ({"error": {"message": "prompt is too long: 9 tokens", "code": 500}}, "too long"),
    "payment": ({"error": {"message": "no credit", "code": 402}}, "no credit"),
}
OVERLOADED: dict[str, dict[str, Any]] = {
    "a status": {"error": {"message": "slow down", "code": 429}},
    "a status as text": {"error": {"message": "slow down", "code": "503"}},
    "a type": {"type": "error", "error": {"type": "overloaded_error", "message": "slow down"}},
    "a code": {"error": {"message": "slow down", "code": "rate_limit_exceeded"}},
    "Google's": {"error": {"message": "slow down", "code": 0, "status": "RESOURCE_EXHAUSTED"}},
    "beside an answer": {**COST, "error": {"message": "slow down", "code": 429}, "choices": [{"message": {}}]},
    "in a choice": {**COST, "choices": [{"error": {"message": "slow down", "code": 429}, "delta": {}}]},
}
"""Errors inside a 200 that do not say how long to wait."""
WAITS: dict[str, dict[str, Any]] = {
    "a field": {"error": {"message": "slow down", "code": 429, "retry_after": 7}},
    "a field beside the error": {"error": {"message": "slow down", "code": 429}, "retry_after": 7},
    "its metadata": {"error": {"message": "slow down", "code": 429, "metadata": {"retry_after_seconds": 7}}},
    "Google's": {
        "error": {
            "message": "slow down",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}],
        }
    },
    "its words": {"error": {"message": "slow down, please try again in 7s", "type": "rate_limit_error"}},
    "its words elsewhere": {"error": {"detail": "slow down, retry after 7 seconds", "code": 503}},
}
"""The same, with a wait of 7 s."""
FAILED: dict[str, tuple[list[Event], str]] = {
    "an error": ([HEL, {"error": {"message": "out of memory", "code": 500}}], "out of memory"),
    "an error of one word": ([{"error": "EXPLODED"}], "EXPLODED"),
    "an event named error": ([b'event: error\ndata: {"message": "overloaded"}\n\n'], "overloaded"),
    "an error in a choice": ([piece({}, "error", error={"message": "no GPU"})], "no GPU"),
    "given up": ([HEL, LO, piece({}, "abort"), COST], "abort"),
    "given up, as an object": ([HEL, LO, piece({}, {"type": "abort"}), COST], "abort"),
    "a completion that was given up": (
        [orjson.dumps({**COST, "choices": [{"message": {"content": "Hel"}, "finish_reason": "abort"}]})],
        "abort",
    ),
    "out of resources": ([HEL, piece({}, "insufficient_system_resource")], "insufficient_system_resource"),
    "a network error": ([HEL, piece({}, "network_error")], "network_error"),
    "no choices": ([COST], "has no choices"),
    "nothing": ([], "has no choices"),
    "no JSON": ([raw("oops")], "oops"),
    "half a chunk": ([HEL, b'data: {"choices": [{"ind'], '{"choices": [{"ind'),
    "a number": ([raw("7")], "not an object"),
    "choices that are none": ([{"choices": "x"}], "not a list"),
    "a delta that is none": ([piece(7)], "`delta`"),
    "content that is none": ([piece({"content": 7})], "not text"),
    "calls that are none": ([piece({"tool_calls": 7})], "not a list"),
    "a page": ([b"<html><body>Welcome</body></html>"], "Welcome"),
    "MiniMax's status": ([{"base_resp": {"status_code": 1013, "status_msg": "internal error"}}], "internal error"),
    "Cloudflare's errors": ([{"result": None, "success": False, "errors": [{"message": "no model"}]}], "no model"),
    "calls without end": ([tool(*(call(at, f"c{at}") for at in range(1025)))], "tool calls"),
    "what is nested too deeply": ([raw('{"choices":[{}],"x":' + "[" * 400 + "]" * 400 + "}")], "too deeply"),
    "no end": ([HEL, LO], "ended before"),
}
