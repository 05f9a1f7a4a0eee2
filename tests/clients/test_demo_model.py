"""A real model through the SDK: what an engine does with tools, schemas and probabilities arrives whole."""

import json

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionFunctionToolParam
from pydantic import BaseModel

from tests.clients.published import fits
from tests.clients.test_openai_sdk import says, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


async def test_the_stream_says_what_the_completion_says(demo_client: AsyncOpenAI) -> None:
    create = demo_client.chat.completions.create
    completion = await create(model="demo", messages=says("What is 2 + 2?"), temperature=0)
    stream = await create(model="demo", messages=says("What is 2 + 2?"), temperature=0, stream=True)
    chunks = [chunk async for chunk in stream]
    assert completion.choices[0].message.content
    assert text_of(chunks) == completion.choices[0].message.content
    fits(ChatCompletion, completion)
    for chunk in chunks:
        fits(ChatCompletionChunk, chunk)


async def test_a_tool_is_called_and_its_result_is_used(demo_client: AsyncOpenAI) -> None:
    question = says("What is the weather in Paris?")
    asked = await demo_client.chat.completions.create(model="demo", messages=question, tools=[WEATHER], temperature=0)
    choice = asked.choices[0]
    fits(ChatCompletion, asked)
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    answered = await demo_client.chat.completions.create(
        model="demo",
        messages=[
            *question,
            {"role": "assistant", "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "18C, sunny"},
        ],
        tools=[WEATHER],
        temperature=0,
    )
    assert "18C" in (answered.choices[0].message.content or "")


async def test_a_streamed_tool_call_folds_to_the_same(demo_client: AsyncOpenAI) -> None:
    async with demo_client.chat.completions.stream(
        model="demo", messages=says("What is the weather in Paris?"), tools=[WEATHER], temperature=0
    ) as stream:
        completion = await stream.get_final_completion()
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.choices[0].message.tool_calls
    function = completion.choices[0].message.tool_calls[0].function
    assert (function.name, json.loads(function.arguments)) == ("get_weather", {"city": "Paris"})


class Person(BaseModel):
    name: str
    age: int


async def test_a_schema_is_kept(demo_client: AsyncOpenAI) -> None:
    completion = await demo_client.chat.completions.parse(
        model="demo", messages=says("Give me JSON with name and age"), response_format=Person, max_tokens=200
    )
    assert isinstance(completion.choices[0].message.parsed, Person)


async def test_probabilities_come_with_their_tokens(demo_client: AsyncOpenAI) -> None:
    fields = {"model": "demo", "messages": says("Hello!"), "logprobs": True, "top_logprobs": 2, "max_tokens": 4}
    completion = await demo_client.chat.completions.create(**fields)
    assert completion.choices[0].logprobs
    tokens = completion.choices[0].logprobs.content or []
    assert "".join(token.token for token in tokens) == completion.choices[0].message.content
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)
    fits(ChatCompletion, completion)
    stream = await demo_client.chat.completions.create(**fields, stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    assert sum(len(choice.logprobs.content or []) for choice in choices if choice.logprobs) == len(tokens)


async def test_choices_are_many_and_counted(demo_client: AsyncOpenAI) -> None:
    completion = await demo_client.chat.completions.create(
        model="demo", messages=says("Tell me a story"), n=2, max_tokens=8, extra_body={"ignore_eos": True}
    )
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.usage
    assert completion.usage.completion_tokens == 16


async def test_the_limit_is_a_reason_to_finish(demo_client: AsyncOpenAI) -> None:
    completion = await demo_client.chat.completions.create(
        model="demo", messages=says("Tell me a story"), max_completion_tokens=4
    )
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage
    assert completion.usage.completion_tokens == 4


async def test_a_stop_sequence_ends_the_answer_before_it(demo_client: AsyncOpenAI) -> None:
    create = demo_client.chat.completions.create
    whole = await create(model="demo", messages=says("Count from 1 to 9."), temperature=0)
    stopped = await create(model="demo", messages=says("Count from 1 to 9."), temperature=0, stop=["5"])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == (whole.choices[0].message.content or "").partition("5")[0]


async def test_a_prompt_longer_than_the_context_is_refused(demo_client: AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as error:
            await demo_client.chat.completions.create(model="demo", messages=says("word " * 5000), stream=stream)
        assert error.value.code == "context_length_exceeded"
