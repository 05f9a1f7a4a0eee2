"""Requests of the tests, and helpers to read answers."""

from typing import Any

from worker.engines.base import Chunk, Engine, Request


def ask(text: str = "Tell me a story", **fields: Any) -> Request:
    return {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "seed": 7,
        "max_tokens": 24,
        **fields,
    }


def ask_long(**fields: Any) -> Request:
    """Returns a request for a long answer that only its token limit ends."""
    return ask("Tell me a story itl=5", max_tokens=900, ignore_eos=True, **fields)


async def read(engine: Engine, request: Request, prefix: str = "", progress: bytes = b"") -> list[Chunk]:
    return [chunk async for chunk in engine.generate(request, prefix, progress)]


def cut(chunks: list[Chunk], known: int) -> tuple[str, bytes]:
    """The text of the first `known` pieces, and the progress that the worker has stored with it."""
    text, progress, waiting = "", b"", b""
    for chunk in chunks:
        waiting += chunk.get("progress", b"")
        if known and (piece := text_of([chunk])):
            text, progress, waiting, known = text + piece, progress + waiting, b"", known - 1
    return text, progress


def pieces(chunks: list[Chunk], index: int = 0) -> list[str]:
    """Returns the pieces of the first choice's text."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(pieces(chunks, index))
