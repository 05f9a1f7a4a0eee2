"""What everybody writes first: FastAPI and a StreamingResponse, the engine in the process. No queue.

python -m benchmarks.bare_fastapi PORT
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from benchmarks.answers import TOKENS, text_of

SEED, ITL = re.compile(r"\bseed=(\d+)"), re.compile(r"\bitl=(\d+)")


class Message(BaseModel):
    role: str
    content: str


class ChatRequest(BaseModel):
    model: str
    messages: list[Message]
    max_tokens: int
    stream: bool = False
    temperature: float | None = None


def head(seed: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{seed:024x}", "object": kind, "created": 1700000000, "model": "sim"}


def frame(seed: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: " + orjson.dumps(head(seed, "chat.completion.chunk") | {"choices": [choice]}) + b"\n\n"


async def frames(seed: int, tokens: int, pace: float) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    due = loop.time()
    yield frame(seed, {"role": "assistant", "content": ""})
    for at in range(tokens):
        if at:
            due += pace
        await asyncio.sleep(max(0.0, due - loop.time()) if pace else 0)
        yield frame(seed, {"content": TOKENS[(seed + at) % 1000]})
    yield frame(seed, {}, "stop")
    yield b"data: [DONE]\n\n"


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    print("bare_fastapi is ready", flush=True)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def complete(asked: ChatRequest) -> Response:
    prompt = asked.messages[-1].content
    seed, pace = int(SEED.search(prompt)[1]), int(ITL.search(prompt)[1]) / 1000
    if asked.stream:
        return StreamingResponse(frames(seed, asked.max_tokens, pace), media_type="text/event-stream")
    message = {"role": "assistant", "content": text_of(seed, asked.max_tokens)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": asked.max_tokens}
    answer = head(seed, "chat.completion") | {"choices": [choice], "usage": usage}
    return Response(orjson.dumps(answer), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        backlog=4096,
    )
