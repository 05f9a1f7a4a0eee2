"""Embeddings and completions as users of OpenAI's SDK call them, on every backend."""

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Completion, CreateEmbeddingResponse

from tests.clients.published import fits
from tests.producer.api import MODEL

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_embeddings(client: AsyncOpenAI) -> None:
    """The SDK asks for base64, and decodes it."""
    found = await client.embeddings.create(model=MODEL, input=["a", "b", "a"])
    fits(CreateEmbeddingResponse, found)
    first, other, again = (row.embedding for row in found.data)
    assert first == again != other
    plain = await client.embeddings.create(model=MODEL, input="a", encoding_format="float", dimensions=8)
    assert len(plain.data[0].embedding) == 8
    by_ids = await client.embeddings.create(model=MODEL, input=[[1, 2], [3]])
    assert len(by_ids.data) == 2
    with pytest.raises(openai.BadRequestError) as refused:
        await client.embeddings.create(model=MODEL, input=[])
    assert refused.value.param == "input"


async def test_completions(client: AsyncOpenAI) -> None:
    found = await client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=2, n=2, echo=True)
    fits(Completion, found)
    assert [choice.text for choice in found.choices] == ["a t000 t001"] * 2 + ["b t000 t001"] * 2
    assert found.usage
    assert found.usage.completion_tokens == 8


async def test_the_demo_model_answers_both_with_the_synchronous_client(demo_url: str) -> None:
    def both() -> Any:
        with OpenAI(base_url=demo_url, api_key="none") as client:
            return (
                client.embeddings.create(model="demo", input=["Hello there", "Count to 10"]),
                client.completions.create(model="demo", prompt="Hello", max_tokens=4, logprobs=1),
            )

    embeddings, completion = await asyncio.to_thread(both)
    assert len(embeddings.data) == 2
    assert embeddings.usage.prompt_tokens > 2
    fits(Completion, completion)
    assert len(completion.choices[0].logprobs.tokens) == 4
