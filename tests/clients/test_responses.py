"""The Responses API as users of OpenAI's SDK call it, on every backend."""

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.clients.published import fits, has
from tests.producer.api import MODEL, Api
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = " t007 t008 t009"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
REQUIRED = {
    *("id", "object", "created_at", "error", "incomplete_details", "instructions", "model", "tools", "output"),
    *("parallel_tool_calls", "metadata", "tool_choice", "temperature", "top_p"),
}
"""What OpenAI's description of a response requires."""
GET_WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


class Person(BaseModel):
    name: str
    age: int


def whole(response: Response) -> None:
    fits(Response, response)
    has(response.model_dump(exclude_unset=True), REQUIRED)


def checked(event: Any) -> Any:
    EVENT.validate_json(event.model_dump_json(exclude_unset=True), strict=True)
    return event


async def test_create(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="seed=7", metadata={"a": "b"})
    assert response.output_text == WORDS
    assert response.usage and response.usage.total_tokens == 4
    whole(response)
    assert await client.responses.retrieve(response.id) == response


async def test_stream(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input="seed=7", stream=True)
    events = [checked(event) async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == WORDS
    assert events[-1].type == "response.completed"
    whole(events[-1].response)


async def test_stream_helper(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="seed=7") as stream:
        kinds = {event.type async for event in stream}
        response = await stream.get_final_response()
    assert {"response.created", "response.output_text.delta", "response.completed"} <= kinds
    assert response.output_text == WORDS


async def test_sync_client(sync_client: OpenAI) -> None:
    def both() -> tuple[str, str]:
        create = sync_client.responses.create
        with create(model=MODEL, input="seed=7", stream=True) as stream:
            streamed = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        return create(model=MODEL, input="seed=7").output_text, streamed

    assert await asyncio.to_thread(both) == (WORDS, WORDS)


async def test_a_background_stream_is_resumed(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(
        model=MODEL, input="seed=7 itl=20", max_output_tokens=10, background=True, stream=True
    )
    seen: list[Any] = []
    async for event in stream:
        seen.append(checked(event))
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    resumed = await client.responses.retrieve(seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number)
    seen += [checked(event) async for event in resumed]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == seen[-1].response.output_text == "".join(f" t{at:03d}" for at in range(7, 17))
    async with client.responses.stream(response_id=seen[0].response.id, starting_after=3) as helper:
        assert (await helper.get_final_response()).output_text == text


async def test_submit_poll_cancel_delete(client: AsyncOpenAI, api: Api) -> None:
    response = await client.responses.create(model=MODEL, input="ttft=60000", background=True)
    assert response.status == "queued"
    whole(response)
    await wait_until(lambda: api.engine.working, "the engine to work")
    assert (await client.responses.retrieve(response.id)).status == "in_progress"
    assert (await client.responses.cancel(response.id)).status == "cancelled"
    await client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


async def test_a_conversation(client: AsyncOpenAI, api: Api) -> None:
    first = await client.responses.create(model=MODEL, input="seed=7", instructions="Be brief.")
    second = await client.responses.create(model=MODEL, input="seed=8", previous_response_id=first.id)
    assert [message["role"] for message in api.engine.asked[-1]["messages"]] == ["user", "assistant", "user"]
    by_hand: Any = [{"role": "user", "content": "seed=7"}, *first.output, {"role": "user", "content": "seed=8"}]
    third = await client.responses.create(model=MODEL, input=by_hand)
    assert third.output_text == second.output_text
    assert api.engine.asked[-1]["messages"] == api.engine.asked[-2]["messages"]
    items = await client.responses.input_items.list(third.id, order="asc", limit=2)
    assert [item.type async for item in items] == ["message"] * 3
    fits(ResponseItemList, ResponseItemList.model_validate_json(items.model_dump_json(exclude_unset=True)))
    with pytest.raises(openai.BadRequestError) as error:
        await client.responses.create(model=MODEL, input="x", previous_response_id="resp_x")
    assert (error.value.param, error.value.code) == ("previous_response_id", "previous_response_not_found")


async def test_input_tokens(client: AsyncOpenAI) -> None:
    counted = await client.responses.input_tokens.count(model=MODEL, input="one two three")
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", 3)


async def test_what_the_engine_refuses_is_a_bad_request(client: AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="too long") as error:
            await client.responses.create(model=MODEL, input="refuse", stream=stream)
        assert error.value.param == "input"


# ── a real model ──


async def test_a_function_is_called_and_its_output_answered(demo_client: AsyncOpenAI) -> None:
    ask = "What is the weather in Paris?"
    options: Any = {"model": "demo", "tools": [GET_WEATHER], "temperature": 0}
    response = await demo_client.responses.create(input=ask, **options)
    whole(response)
    (call,) = response.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Paris"}
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "18C, sunny"}]
    answer = await demo_client.responses.create(input=output, previous_response_id=response.id, **options)
    assert "18C" in answer.output_text
    by_hand: Any = [{"role": "user", "content": ask}, *response.output, *output]
    assert (await demo_client.responses.create(input=by_hand, **options)).output_text == answer.output_text
    async with demo_client.responses.stream(input=ask, **options) as stream:
        events = [event async for event in stream]
        streamed = await stream.get_final_response()
    assert "response.function_call_arguments.done" in {event.type for event in events}
    assert streamed.output[0].type == "function_call"
    assert json.loads(streamed.output[0].arguments) == {"city": "Paris"}


async def test_output_is_parsed(demo_client: AsyncOpenAI) -> None:
    ask: Any = {"model": "demo", "input": "Give me JSON with name and age", "temperature": 0}
    parsed = await demo_client.responses.parse(text_format=Person, **ask)
    assert parsed.output_parsed and parsed.output_parsed.name
    async with demo_client.responses.stream(text_format=Person, **ask) as stream:
        assert (await stream.get_final_response()).output_parsed == parsed.output_parsed


async def test_limits_and_log_probabilities(demo_client: AsyncOpenAI) -> None:
    response = await demo_client.responses.create(
        model="demo",
        input="Hello!",
        max_output_tokens=3,
        temperature=0,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    whole(response)
    assert response.status == "incomplete"
    assert response.incomplete_details and response.incomplete_details.reason == "max_output_tokens"
    (message,) = response.output
    assert message.type == "message" and message.content[0].type == "output_text"
    assert [len(token.top_logprobs) for token in message.content[0].logprobs or ()] == [2, 2, 2]
    counted = await demo_client.responses.input_tokens.count(model="demo", input="Hello!")
    assert response.usage and counted.input_tokens == response.usage.input_tokens
