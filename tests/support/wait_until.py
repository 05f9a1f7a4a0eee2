"""Waits for conditions instead of times. `sleep(` is used in this package only."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

INTERVAL = 0.01


@overload
async def wait_until(
    predicate: Callable[[], Awaitable[T]],
    what: str = ...,
    within: float = ...,
    seen: Callable[[], object] | None = ...,
) -> T: ...
@overload
async def wait_until(
    predicate: Callable[[], T],
    what: str = ...,
    within: float = ...,
    seen: Callable[[], object] | None = ...,
) -> T: ...
async def wait_until(
    predicate: Callable[[], object],
    what: str = "",
    within: float = 60.0,
    seen: Callable[[], object] | None = None,
) -> object:
    """Returns the predicate's first truthy value. A failed `assert` inside the predicate means "not yet". After
    `within` seconds, raises TimeoutError with what was awaited and what was last seen: the value of `seen()` if given,
    else the last value of the predicate.
    """
    ends = time.monotonic() + within
    while True:
        answer, held = await _ask(predicate)
        if held:
            return answer
        if time.monotonic() >= ends:
            last = seen() if seen else answer
            raise TimeoutError(f"waited {within:g} s for {what or _source(predicate)}; last seen: {last!r}")
        await asyncio.sleep(INTERVAL)


async def _ask(predicate: Callable[[], object]) -> tuple[object, bool]:
    try:
        answer = predicate()
        if inspect.isawaitable(answer):
            answer = await answer
    except AssertionError as not_yet:
        return not_yet, False
    return answer, bool(answer)


def _source(predicate: Callable[[], object]) -> str:
    try:
        return " ".join(inspect.getsource(predicate).split())
    except (OSError, TypeError):
        return repr(predicate)
