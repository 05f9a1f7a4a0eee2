"""How often a replay diverges under real batching: each request is answered alone, and again beside seven others.

    python -m tests.vllm.measure_replays http://127.0.0.1:8000/v1 [--requests 40]

What differs would have ended a replayed stream with `worker_lost`. The figures are in docs/explanation/reliability.md.
"""

import argparse
import asyncio
import json
from contextlib import suppress
from typing import Any

from shared.errors import EngineError, EngineRefused
from tests.worker.engines.requests import ask
from worker.engines.base import Engine
from worker.engines.open_engine import EngineSettings, open_engine
from worker.stream.fold import fold

BESIDE = 8
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": PARAMETERS, "strict": True}}
SHAPES: dict[str, dict[str, Any]] = {
    "plain text": {},
    "n = 3": {"n": 3},
    "log probabilities": {"logprobs": True},
    "JSON Schema": {"response_format": SCHEMA},
    "tools, required": {"tools": TOOLS, "tool_choice": "required"},
}


async def answer(engine: Engine, request: dict[str, Any]) -> str:
    """What a client would compare: the texts and calls of all choices."""
    folded = fold([chunk async for chunk in engine.generate(request)])
    said = [choice["message"] for choice in folded["choices"]]
    for message in said:
        for call in message.get("tool_calls") or ():
            call["id"] = ""
    return json.dumps(said, sort_keys=True)


async def measure(engine: Engine, count: int, **fields: Any) -> tuple[int, int]:
    """Of how many requests the answers differ, and how many there are. Those that the engine fails are left out."""
    requests = [ask(f"the quick brown fox {number}", seed=number, max_tokens=150, **fields) for number in range(count)]
    alone: list[str | None] = []
    for request in requests:
        alone.append(None)
        with suppress(EngineError, EngineRefused):
            alone[-1] = await answer(engine, request)
    slots, beside = asyncio.Semaphore(BESIDE), list[str | None]()

    async def limited(request: dict[str, Any]) -> str | None:
        async with slots:
            with suppress(EngineError, EngineRefused):
                return await answer(engine, request)
        return None

    beside = await asyncio.gather(*map(limited, requests))
    pairs = [(one, other) for one, other in zip(alone, beside, strict=True) if one and other]
    return sum(one != other for one, other in pairs), len(pairs)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=40)
    options = parser.parse_args()
    engine = open_engine(EngineSettings("openai", url=options.url))
    await engine.start()
    for shape, fields in SHAPES.items():
        for temperature in (0, 1):
            differ, total = await measure(engine, options.requests, **{**fields, "temperature": temperature})
            print(f"{shape:20} temperature {temperature}: {differ} of {total} differ", flush=True)
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
