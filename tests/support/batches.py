"""Batches for the simulated engine, and checks of their results."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from openai import AsyncOpenAI
from openai.types import Batch

ENDPOINT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
OVER = ("completed", "failed", "expired", "cancelled")


def line(number: int, *, model: str = "simulated", prompt: str | None = None, **fields: Any) -> dict[str, Any]:
    """Returns a line that is answered with three tokens, counting from the line's number, unless the body says
    otherwise.
    """
    messages = [{"role": "user", "content": f"seed={number}" if prompt is None else prompt}]
    body = {"model": model, "messages": messages, "max_tokens": 3, **fields}
    return {"custom_id": f"line-{number}", "method": "POST", "url": ENDPOINT, "body": body}


def response_line(number: int, *, prompt: str | None = None, **fields: Any) -> dict[str, Any]:
    """The same for the Responses API."""
    asked = f"seed={number}" if prompt is None else prompt
    body = {"model": "simulated", "input": asked, "max_output_tokens": 3, **fields}
    return {"custom_id": f"line-{number}", "method": "POST", "url": RESPONSES, "body": body}


def text_of(number: int, tokens: int = 3) -> str:
    return "".join(f" t{(number + at) % 1000:03d}" for at in range(tokens))


def jsonl(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def begun(client: AsyncOpenAI, data: bytes, **options: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    window = options.pop("completion_window", "24h")
    options = {"endpoint": ENDPOINT, **options}
    return await client.batches.create(input_file_id=file.id, completion_window=window, **options)


async def over(client: AsyncOpenAI, batch: Batch) -> Batch:
    """Waits until the batch is over, and returns it. Checks that its counts never decrease."""
    before = (0, 0)
    while batch.status not in OVER:
        await asyncio.sleep(0.05)
        batch = await client.batches.retrieve(batch.id)
        counts = batch.request_counts
        assert counts is not None
        assert counts.completed >= before[0], (before, counts)
        assert counts.failed >= before[1], (before, counts)
        before = (counts.completed, counts.failed)
    return batch


async def lines_of(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    content = await client.files.content(file_id)
    return [json.loads(each) for each in content.text.splitlines()]


async def outcome_of(client: AsyncOpenAI, batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the lines of the batch's output file and of its error file."""
    return await lines_of(client, batch.output_file_id), await lines_of(client, batch.error_file_id)


def content_of(answer: Mapping[str, Any]) -> str:
    return answer["response"]["body"]["choices"][0]["message"]["content"]


def assert_each_once(answers: Iterable[Mapping[str, Any]], numbers: Iterable[int], tokens: int = 3) -> None:
    """Asserts that there is exactly one correct answer for each line."""
    found = sorted((answer["custom_id"], content_of(answer)) for answer in answers)
    assert found == sorted((f"line-{number}", text_of(number, tokens)) for number in numbers)
