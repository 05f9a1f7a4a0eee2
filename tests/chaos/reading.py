"""Decodes received bytes for the checker: frames, words and marks. Pure functions."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tests.chaos.aftermath import JobState
from tests.chaos.ledger import DONE, Answer, Call, End, Frame, SignedPrompt, Use
from tests.support.chat import DONE as DONE_FRAME
from tests.support.chat import stream_of

SIGNED = re.compile(r" t(\d{3})\.([0-9a-f]{4})")


def named(call: Call) -> str:
    return f"{call.job_id or 'no job'} ({about(call)})"


def about(call: Call | None) -> str:
    if call is None:
        return "of no call"
    way = "replayed where lost" if call.prompt.constrained else "continued where lost"
    return f"call {call.tag}, {call.use}, {way}, answered with {call.first.status or 'nothing'}"


def is_error(body: Any) -> bool:
    try:
        return "message" in body["error"]
    except (TypeError, KeyError):
        return False


def status_in(answer: Answer) -> str:
    body = answer.json() if answer.status == 200 and answer.end is End.WHOLE else None
    return str(body["status"]) if body else ""


def error_of(state: JobState) -> str:
    return state.results[0][1][:200].decode(errors="replace") if state.results else "no result"


def events_of(state: JobState) -> list[Frame]:
    return Answer("", "", pieces=[(0.0, state.events)]).frames


def texts(frames: Sequence[Frame]) -> list[str]:
    return [frame.data for frame in frames]


def head_of(data: str) -> dict[str, Any] | None:
    try:
        head = json.loads(data)
        del head["choices"]
    except (ValueError, KeyError, TypeError):
        return None
    return head


def words_in(frames: Sequence[Frame]) -> list[str]:
    return [word for word, _ in timed_words(frames)]


def timed_words(frames: Sequence[Frame]) -> Iterator[tuple[str, float]]:
    for frame in frames:
        try:
            choices = json.loads(frame.data)["choices"]
        except (ValueError, KeyError, TypeError):
            continue
        for each in choices:
            if word := each["delta"].get("content"):
                yield word, frame.at


def marks_in(frames: Sequence[Frame]) -> list[str]:
    return [found[2] for word in words_in(frames) if (found := SIGNED.fullmatch(word))]


def content_in(body: bytes) -> str:
    try:
        return json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, TypeError, IndexError):
        return repr(body)


def numbers_wrong(call: Call) -> str:
    """Whether a resumed stream continues directly after the received frames."""
    numbers = [frame.number for frame in call.frames]
    first = next((at for at, number in enumerate(numbers) if number is not None), len(numbers))
    expected = list(range(first, len(numbers)))
    return "" if numbers[first:] == expected else f"resumed, its frames were numbered {numbers[first:]}, not {expected}"


def not_whole(prompt: SignedPrompt, frames: Sequence[Frame]) -> str:
    """Yields faults of a stream that should be complete."""
    if not frames:
        return "it had no frames"
    head = head_of(frames[0].data)
    if head is None:
        return f"its first frame is {frames[0].data[:200]}"
    words = said_words(prompt, frames)
    expected = stream_of(head, words).removesuffix("\n\n").split("\n\n")
    return difference(texts(frames), [text.removeprefix("data: ") for text in expected])


def said_words(prompt: SignedPrompt, frames: Sequence[Frame]) -> list[str]:
    """Returns the expected words; for signed answers, with the marks of the received words."""
    if not prompt.signed:
        return prompt.words
    marks = marks_in(frames)
    marks += ["????"] * (prompt.tokens - len(marks))
    return [f"{word}.{mark}" for word, mark in zip(prompt.words, marks, strict=False)]


def difference(seen: Sequence[str], expected: Sequence[str]) -> str:
    """Describes the first difference in words; nothing if they are equal."""
    if list(seen) == list(expected):
        return ""
    at = next((at for at, pair in enumerate(zip(seen, expected, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        return f"{len(seen)} frames instead of {len(expected)}"
    return f"frame {at} of {len(expected)} is {seen[at][-120:]} instead of {expected[at][-120:]}"


def wrong_log(call: Call, status: str, frames: Sequence[Frame]) -> str:
    """Checks that a log has the whole answer, or a part of it and an error, and one end."""
    ends = [at for at, frame in enumerate(frames) if frame.data == DONE]
    if ends != [len(frames) - 1]:
        return f"its ends are at {ends}, and it has {len(frames)} frames"
    if call.use in (Use.UNARY, Use.LEFT_UNARY):
        return wrong_unfolded(call, status, frames)
    if status == "completed":
        return not_whole(call.prompt, frames)
    said = words_in(frames)
    if said != said_words(call.prompt, frames)[: len(said)]:
        return f"it says {said[-3:]} where it was left"
    return "" if is_error(json.loads(frames[-2].data)) else f"it ends {status} without an error"


def wrong_unfolded(call: Call, status: str, frames: Sequence[Frame]) -> str:
    """The words of a completion without a stream. If its worker was lost, it is generated as a stream."""
    if status != "completed" or not not_whole(call.prompt, frames):
        return ""
    head = head_of(frames[0].data)
    return difference(texts(frames), unfolded(head or {}, call.prompt.text))


def unfolded(head: dict[str, Any], text: str) -> list[str]:
    return [
        part.removeprefix("data: ") for part in stream_of(head, [text]).removesuffix(DONE_FRAME).split("\n\n")[:-1]
    ] + [DONE]
