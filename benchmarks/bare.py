"""The bare server: what HTTP and the answers alone cost in Python. No queue, no log, no checks, one write per token.

python -m benchmarks.bare PORT
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
from typing import Any

import httptools
import orjson
import uvloop

from benchmarks.answers import TOKENS, text_of

SEED, ITL = re.compile(r"\bseed=(\d+)"), re.compile(r"\bitl=(\d+)")
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
ENDING = b'"},"logprobs":null,"finish_reason":null}]}\n\n'
PIECES = tuple(token.encode() + ENDING for token in TOKENS)


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Bare(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        asked, self._body = orjson.loads(self._body), b""
        prompt = asked["messages"][-1]["content"]
        self._seed, self._tokens = int(SEED.search(prompt)[1]), asked["max_tokens"]
        self._pace = int(ITL.search(prompt)[1]) / 1000
        if asked["stream"]:
            self._begin()
        else:
            self._answer()

    def _answer(self) -> None:
        text = text_of(self._seed, self._tokens)
        body = (
            f'{{"id":"chatcmpl-{self._seed:024x}","object":"chat.completion","created":1700000000,"model":"sim",'
            f'"choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"logprobs":null,'
            f'"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":{self._tokens}}}}}'
        ).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)

    def _begin(self) -> None:
        self._frame = (
            b'data: {"id":"chatcmpl-%024x","object":"chat.completion.chunk","created":1700000000,"model":"sim",'
            b'"choices":[{"index":0,"delta":{' % self._seed
        )
        role = b'"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
        self._transport.write(HEAD + http_chunk(self._frame + role))
        self._at, self._due = 0, self._loop.time()
        self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        if self._transport is None:
            return
        if self._at == self._tokens:
            last = self._frame + b'},"logprobs":null,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
            self._transport.write(http_chunk(last) + b"0\r\n\r\n")
            return
        piece = PIECES[(self._seed + self._at) % 1000]
        self._transport.write(http_chunk(self._frame + b'"content":"' + piece))
        self._at += 1
        if self._pace and self._at < self._tokens:
            self._due += self._pace
            self._loop.call_at(self._due, self._tick)
        else:
            self._loop.call_soon(self._tick)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port, backlog=4096)
    gc.collect()
    gc.freeze()
    print("bare is ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
