"""Estimates the tokens of a batch's input from the first lines of its file, before all of it is validated."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing

from producer.batches.input.lines import BadLine, LineReader, line_tokens, parse_line
from producer.files.catalog import Files

SAMPLE = 64 * 1024
"""Bytes that are read."""

MOST_MODELS = 100
"""The most models in a sample; a sample with more is not used."""


async def sampled_tokens(files: Files, tenant: str, file_id: str, endpoint: str) -> dict[str, int]:
    """Returns the estimated tokens of the whole file by model; empty without a valid line in the sample. Raises
    NotFound.
    """
    entry = await files.get(tenant, file_id)
    data = bytearray()
    async with aclosing(files.read(tenant, file_id, 0, min(SAMPLE, entry.size))) as chunks:
        async for chunk in chunks:
            data += chunk
    return tokens_by_model(bytes(data), entry.size, endpoint)


def tokens_by_model(data: bytes, size: int, endpoint: str) -> dict[str, int]:
    """`data`: the beginning of a file of `size` bytes."""
    reader = LineReader(SAMPLE)
    lines = [*reader.feed(data), *(reader.end() if len(data) >= size else ())]
    tokens: Counter[str] = Counter()
    for raw in lines:
        try:
            line = parse_line(raw.data, endpoint)
        except BadLine:
            continue
        tokens[line.model] += line_tokens(line, len(raw.data or b""))
    read = lines[-1].end if lines else 0
    if not read or len(tokens) > MOST_MODELS:
        return {}
    return {model: round(count * max(1.0, size / read)) for model, count in tokens.items()}
