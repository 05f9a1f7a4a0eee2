"""The simulated engine: generates numbered tokens at a set rate, so that load tests measure Ignite without a model.

An answer is ` t000` … ` t999`, five characters per token; the numbers start at a seed and wrap around. The last user
message may contain `seed=7 itl=20 ttft=100` (times in milliseconds); other values come from the settings.

With `sign=1` every token ends with a random mark of its attempt, ` t007.a1f3`. So a test can see where one attempt
continued another one, and whether an older attempt wrote after that. The mark belongs to the attempt, not to the
engine, because one engine may run several attempts of a job.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from shared.errors import EngineError, EngineRefused
from shared.job import Api
from worker.engines.base import Answer, Chunk, Completion, ModelCard, OneModel, Request
from worker.engines.health import Health
from worker.engines.simulated_calls import ANSWERS, simulated_answer

TOKEN_CHARS = 5
CONTEXT_LENGTH = 1_000_000
"""Tokens in one answer at most, so that a mistaken request does not use up the memory."""

TOKENS = tuple(f" t{number:03d}" for number in range(1000))
DESCRIPTION = "Simulated: numbered tokens at a set rate. For load tests only; no model runs."

LONG_TEXT = 100_000
"""Characters. In longer texts only the ends are searched for knobs, and the number of words is estimated."""

# At most eighteen digits: int() refuses numbers with thousands of digits.
_KNOBS = re.compile(r"\b(seed|itl|ttft|sign)=(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Script:
    """One answer: `tokens` per choice, of which an earlier attempt has generated the first `skipped`. Times in seconds.
    `mark`: the end of every token.
    """

    seed: int
    tokens: int
    skipped: int
    choices: int
    prompt_tokens: int
    itl: float
    ttft: float
    mark: str = ""

    @property
    def duration(self) -> float:
        return self.ttft + self.itl * max(0, self.tokens - self.skipped - 1)

    def text(self, choice: int) -> str:
        start = self.seed + choice
        return "".join(TOKENS[(start + at) % 1000] + self.mark for at in range(self.skipped, self.tokens))

    def usage(self) -> dict[str, int]:
        completion = self.tokens * self.choices
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }


AT_ONCE = 8
"""Tokens that a stream generates before it yields to the event loop, if it is late or has no set rate."""


class SimulatedEngine(OneModel):
    """Answers any request; a token costs about a microsecond."""

    continues_text = True

    def __init__(
        self,
        *,
        model_id: str = "simulated",
        concurrency: int = 1024,
        tokens: int = 64,
        seed: int = 0,
        itl_ms: int = 0,
        ttft_ms: int = 0,
    ) -> None:
        self.card = ModelCard(
            model_id, "simulated", CONTEXT_LENGTH, description=DESCRIPTION, capabilities=("chat", "stream", *ANSWERS)
        )
        self.concurrency = concurrency
        self._tokens, self._seed, self._itl_ms, self._ttft_ms = tokens, seed, itl_ms, ttft_ms
        self._health = Health()
        self._sleepers: dict[int, list[asyncio.Future[None]]] = {}

    async def start(self) -> None:
        self._health.recovered()

    def continues_from(self, request: Request, prefix: str, progress: bytes) -> bool:
        return True

    async def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk, None]:
        self._require_open()
        script = self._script(request, prefix)
        head = self._head("chat.completion.chunk")
        loop = asyncio.get_running_loop()
        due = loop.time() + script.ttft
        for index in range(script.choices):
            yield {**head, "choices": _choice(index, {"role": "assistant", "content": ""})}
        for at in range(script.skipped, script.tokens):
            if due > loop.time():
                await self._sleep_until(due)
            elif (at - script.skipped) % AT_ONCE == 0:
                await asyncio.sleep(0)  # Yields to the event loop, however late this stream is.
            self._require_open()
            due += script.itl
            for index in range(script.choices):
                yield {**head, "choices": _content(index, script.seed + index + at, script.mark)}
        for index in range(script.choices):
            yield {**head, "choices": _choice(index, {}, "stop")}
        yield {**head, "choices": [], "usage": script.usage()}

    async def complete(self, request: Request) -> Completion:
        self._require_open()
        script = self._script(request)
        await self._sleep_until(asyncio.get_running_loop().time() + script.duration)
        self._require_open()
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": script.text(index), "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
            for index in range(script.choices)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": script.usage()}

    async def call(self, api: Api, request: Request) -> Answer:
        self._require_open()
        if self._ttft_ms:
            await self._sleep_until(asyncio.get_running_loop().time() + self._ttft_ms / 1000)
            self._require_open()
        return simulated_answer(api, request)

    async def wait_unhealthy(self) -> str:
        return await self._health.wait_unhealthy()

    async def wait_healthy(self) -> None:
        await self._health.wait_healthy()

    async def close(self) -> None:
        self._health.failed("the engine is closed")
        for tick in list(self._sleepers):
            self._wake(tick)

    def _require_open(self) -> None:
        if not self._health.healthy:
            raise EngineError(f"The simulated engine cannot generate: {self._health.reason}.")

    async def _sleep_until(self, due: float) -> None:
        """Sleeps until `due`, or until the engine is closed. Streams due in the same millisecond share a timer."""
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        tick = math.ceil(round(due * 1000, 3))
        if tick not in self._sleepers:
            self._sleepers[tick] = []
            loop.call_at(tick / 1000, self._wake, tick)
        self._sleepers[tick].append(sleeper)
        await sleeper

    def _wake(self, tick: int) -> None:
        for sleeper in self._sleepers.pop(tick, ()):
            if not sleeper.done():
                sleeper.set_result(None)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.card.id,
        }

    def _script(self, request: Request, prefix: str = "") -> Script:
        tokens = request.get("max_completion_tokens") or request.get("max_tokens") or self._tokens
        if tokens > CONTEXT_LENGTH:
            raise EngineRefused(
                f"The simulated engine generates at most {CONTEXT_LENGTH} tokens, not {tokens}.",
                code="context_length_exceeded",
                param="max_tokens",
            )
        messages: list[dict[str, Any]] = request.get("messages") or []
        knobs = _knobs(_last_user_text(messages))
        mark = f".{os.urandom(2).hex()}" if knobs.get("sign") else ""
        return Script(
            seed=knobs.get("seed", self._seed),
            tokens=tokens,
            skipped=min(tokens, len(prefix) // (TOKEN_CHARS + len(mark))),
            choices=request.get("n") or 1,
            prompt_tokens=sum(_words(_text(message)) for message in messages),
            itl=knobs.get("itl", self._itl_ms) / 1000,
            ttft=knobs.get("ttft", self._ttft_ms) / 1000,
            mark=mark,
        )


def _choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]


# All chunks with the same token in the first choice share these lists: readers must not modify `choices`.
_FIRST_CHOICE = tuple(_choice(0, {"content": token}) for token in TOKENS)


def _content(index: int, number: int, mark: str) -> list[dict[str, Any]]:
    if mark:
        return _choice(index, {"content": TOKENS[number % 1000] + mark})
    if index == 0:
        return _FIRST_CHOICE[number % 1000]
    return _choice(index, {"content": TOKENS[number % 1000]})


def _last_user_text(messages: Iterable[dict[str, Any]]) -> str:
    users = [message for message in messages if message.get("role") == "user"]
    return _text(users[-1]) if users else ""


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else " ".join(_part_texts(content or []))


def _part_texts(parts: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (part["text"] for part in parts if isinstance(part.get("text"), str))


def _words(text: str) -> int:
    """Counts words, and in a long text its spaces: a list of millions of words would cost more than the request."""
    return len(text.split()) if len(text) < LONG_TEXT else text.count(" ") + 1


def _ends(text: str) -> str:
    """Returns a long text's beginning and end."""
    return text if len(text) < LONG_TEXT else f"{text[: LONG_TEXT // 2]} {text[-LONG_TEXT // 2 :]}"


def _knobs(text: str) -> dict[str, int]:
    """Reads the knobs from both ends of `text`. The first value of a knob counts."""
    return {name: int(value) for name, value in reversed(_KNOBS.findall(_ends(text)))}
