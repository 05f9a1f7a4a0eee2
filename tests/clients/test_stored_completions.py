"""OpenAI's own calls for stored completions."""

import pytest
from openai import AsyncOpenAI, NotFoundError
from openai.types.chat import ChatCompletion, ChatCompletionUserMessageParam

from tests.clients.published import fits
from tests.producer.api import MODEL

MESSAGES: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "seed=7"}]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_stored_completions(client: AsyncOpenAI) -> None:
    made = [
        await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, store=True, metadata={"test": "stored", "n": str(number)}
        )
        for number in range(3)
    ]
    ids = [completion.id for completion in made]
    calls = client.chat.completions

    found = [each async for each in calls.list(limit=2, metadata={"test": "stored"})]
    assert [each.id for each in found] == ids
    for each in found:
        fits(ChatCompletion, each)
    newest = await calls.list(order="desc", model=MODEL, metadata={"test": "stored"}, limit=1)
    assert [each.id for each in newest.data] == ids[-1:]

    assert (await calls.retrieve(ids[0])).choices == made[0].choices
    changed = await calls.update(ids[0], metadata={"test": "changed"})
    assert changed.metadata == {"test": "changed"}
    messages = [each async for each in calls.messages.list(ids[0], limit=1)]
    assert [(each.id, each.content, each.content_parts) for each in messages] == [(f"{ids[0]}-0", "seed=7", None)]

    for each in ids:
        assert (await calls.delete(each)).deleted
    with pytest.raises(NotFoundError):
        await calls.retrieve(ids[0])
