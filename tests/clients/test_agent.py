"""An agent framework that was written for OpenAI: its loop of calls and results, its streams, its typed output."""

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel], ids=["chat", "responses"])
def model(request: pytest.FixtureRequest, demo_client: AsyncOpenAI) -> OpenAIChatModel | OpenAIResponsesModel:
    return request.param("demo", provider=OpenAIProvider(openai_client=demo_client), settings={"temperature": 0})


@pytest.fixture
def meteorologist(model: OpenAIChatModel | OpenAIResponsesModel) -> Agent[None, str]:
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"18C, sunny in {city}" if city == "Paris" else "unknown"

    return agent


async def test_the_agent_calls_its_tool_and_uses_the_result(meteorologist: Agent[None, str]) -> None:
    run = await meteorologist.run("What is the weather in Paris?")
    assert "18C" in run.output
    assert (run.usage.tool_calls, run.usage.requests) == (1, 2)
    assert run.usage.output_tokens > 0


async def test_the_agents_stream_is_its_answer(meteorologist: Agent[None, str]) -> None:
    async with meteorologist.run_stream("What is the weather in Paris?") as run:
        texts = [text async for text in run.stream_text(debounce_by=None)]
    assert len(texts) > 1
    assert "18C" in texts[-1]


async def test_the_conversation_goes_on(meteorologist: Agent[None, str]) -> None:
    first = await meteorologist.run("What is the weather in Paris?")
    second = await meteorologist.run("Hello!", message_history=first.all_messages())
    assert second.output


async def test_the_output_is_typed(model: OpenAIChatModel | OpenAIResponsesModel) -> None:
    for output_type in (Person, NativeOutput(Person)):
        run = await Agent(model, output_type=output_type).run("Give me JSON with name and age")
        assert isinstance(run.output, Person)


async def test_a_refusal_is_the_frameworks_own_error(demo_client: AsyncOpenAI) -> None:
    nowhere = OpenAIChatModel("nowhere", provider=OpenAIProvider(openai_client=demo_client))
    with pytest.raises(ModelHTTPError) as error:
        await Agent(nowhere).run("Hello!")
    assert error.value.status_code == 404
