"""Invalid requests that a client could send by mistake or on purpose: valid requests with anything in them changed, as
the bytes of a body. Valid requests that would take long are shortened.
"""

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from tests.support.corpus import CORPUS

Path = tuple[str | int, ...]

TEXTS = st.one_of(st.text(max_size=20), st.text("ab1._ -\x00é", max_size=20), st.sampled_from(["\ud800", "😀", ""]))
"""Text, including lone surrogates."""

NUMBERS = st.one_of(
    st.integers(-3, 3), st.floats(), st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 1e308])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.sampled_from(["", "auto", "function", "\x00", "x" * 70])),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXTS, children, max_size=3),
    max_leaves=8,
)
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
LONGEST = 5
MOST_CHOICES = 4


def paths(value: Any, here: Path = ()) -> list[Path]:
    """Yields every position in a JSON value, except its root."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in inner for path in (*paths(item, (*here, key)), (*here, key))]


@st.composite
def mutants(draw: st.DrawFn, corpus: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Draws a valid request with up to four changes."""
    request = deepcopy(draw(st.sampled_from(corpus or list(CORPUS.values()))))
    for _ in range(draw(st.integers(0, 4))):
        places = paths(request)
        if places:
            change(draw, request, draw(st.randoms(use_true_random=False)).choice(places))
    return calm(request)


def change(draw: st.DrawFn, request: dict[str, Any], path: Path) -> None:
    *way, last = path
    holder: Any = request
    for step in way:
        holder = holder[step]
    match draw(st.sampled_from(["replace", "remove", "repeat", "wrap", "add", "swap"])):
        case "remove":
            del holder[last]
        case "repeat" if isinstance(holder, list):
            holder.extend(deepcopy(holder[last]) for _ in range(draw(st.integers(1, 5))))
        case "wrap":
            holder[last] = draw(st.sampled_from([[holder[last]], {"type": holder[last]}, {str(last): holder[last]}]))
        case "add" if isinstance(holder, dict):
            holder[draw(TEXTS)] = draw(VALUES)
        case "swap":
            other = draw(st.sampled_from(list(CORPUS.values())))
            holder[last] = deepcopy(draw(st.sampled_from([other.get(str(last)), other["messages"], other])))
        case _:
            holder[last] = draw(VALUES)


def calm(request: dict[str, Any]) -> dict[str, Any]:
    """Limits a request to few tokens and choices, with a sufficient deadline."""
    for limit in LIMITS:
        if is_whole(request.get(limit)) and request[limit] < 2**63:
            request[limit] = min(request[limit], LONGEST)
    if not any(is_whole(request.get(limit)) for limit in LIMITS):
        request["max_output_tokens" if "input" in request else "max_tokens"] = LONGEST
    if is_whole(request.get("n")) and request["n"] <= 128:
        request["n"] = min(request["n"], MOST_CHOICES)
    deadline = request.get("deadline_seconds")
    if isinstance(deadline, int | float) and 0 < deadline < 60:
        request["deadline_seconds"] = 60
    request.pop("webhook_url", None)
    return request


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@st.composite
def bodies(draw: st.DrawFn, corpus: list[dict[str, Any]] | None = None) -> bytes:
    """Draws the JSON of a mutant, sometimes with a duplicate name, deep nesting, cut short, or invalid."""
    text = json.dumps(draw(mutants(corpus)), ensure_ascii=draw(st.booleans()))
    if len(text) > 2 and draw(st.integers(1, 5)) == 4:
        twice = draw(st.sampled_from(['"model":7,', '"messages":[],', '"n":1,"n":2,', f'"a":{nested(300)},']))
        text = f"{{{twice}{text[1:]}"
    if draw(st.integers(1, 20)) == 13:
        text = text[: draw(st.integers(0, len(text)))]
    return text.encode(errors="surrogatepass")
