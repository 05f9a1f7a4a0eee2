"""Generates conversations with tools: calls, answers to results, and calls that a grammar forces."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from . import noise, texts

Arguments = dict[str, object]


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    params: dict[str, str]

    def line(self) -> str:
        """As the chat template writes it."""
        inside = ", ".join(f"{name}: {kind}" for name, kind in self.params.items())
        return f"{self.name}({inside})"


@dataclass(frozen=True, slots=True)
class Family:
    names: tuple[str, ...]
    make: Callable[[Random, str], Tool]
    ask: Callable[[Random, Tool], tuple[str, list[Arguments]]]


def _required(params: dict[str, str]) -> list[str]:
    return [name for name in params if not name.endswith("?")]


PLACES = ("location", "location", "city", "city", "place", "city_name", "q", "where")
WEATHER_ASK = (
    "What is the weather in {}?", "What's the weather in {}?", "What's the weather like in {}?",
    "weather in {}", "How is the weather in {} today?", "Is it raining in {}?",
    "What is the weather like in {} right now?", "Tell me the weather in {}.", "Will it rain in {} tomorrow?",
    "What is the temperature in {}?", "Get the weather for {}.", "How warm is it in {}?",
    "What is the current weather in {}?", "Weather for {} please", "What's the forecast for {}?",
    "Check the weather in {}.", "Use the tool to get the weather in {}.",
)  # fmt: skip
TIME_ASK = (
    "What time is it in {}?", "What is the time in {}?", "Tell me the time in {}.", "time in {}",
    "What's the current time in {}?", "Which time is it in {} now?",
)  # fmt: skip
SEARCH_ASK = (
    "Search for {}.", "Search for {}", "Look up {}.", "Find {}.", "Search the web for {}.", "Google {}",
)  # fmt: skip
SUM_ASK = (
    "What is {} + {}?", "Add {} and {}.", "add {} {}", "{} + {}", "What is {} plus {}?", "Sum {} and {}.",
)  # fmt: skip
NAMED_ASK = (
    "Call {}.", "Use {}.", "Call the tool {}.", "Please call {} now.", "Use the {} tool.", "Run {}.",
)  # fmt: skip
OPTIONAL = ("unit?", "unit?", "units?", "days?", "format?")


def _place_tool(rng: Random, name: str) -> Tool:
    params = {rng.choice(PLACES): "string"}
    if rng.random() < 0.4:
        kind = rng.choice(("string", "string", "integer"))
        params[rng.choice(OPTIONAL)] = kind
    elif rng.random() < 0.15:
        params["unit"] = "string"
    return Tool(name, params)


def _place_arguments(tool: Tool, city: str) -> Arguments:
    place, *others = _required(tool.params)
    arguments: Arguments = {place: city}
    return arguments | {other: "celsius" for other in others}


def _ask_places(rng: Random, tool: Tool, asks: tuple[str, ...]) -> tuple[str, list[Arguments]]:
    cities = rng.sample(texts.CITIES, 2 if rng.random() < 0.2 else 1)
    prompt = rng.choice(asks).format(" and ".join(cities))
    return prompt, [_place_arguments(tool, city) for city in cities]


def _ask_weather(rng: Random, tool: Tool) -> tuple[str, list[Arguments]]:
    return _ask_places(rng, tool, WEATHER_ASK)


def _ask_time(rng: Random, tool: Tool) -> tuple[str, list[Arguments]]:
    return _ask_places(rng, tool, TIME_ASK)


def _search_tool(rng: Random, name: str) -> Tool:
    return Tool(name, {rng.choice(("query", "query", "q", "text")): "string"})


def _ask_search(rng: Random, tool: Tool) -> tuple[str, list[Arguments]]:
    query = " ".join(rng.choice((rng.choice(texts.WORDS), noise.word(rng))) for _ in range(rng.randint(1, 3)))
    (name,) = tool.params
    return rng.choice(SEARCH_ASK).format(query), [{name: query}]


def _sum_tool(rng: Random, name: str) -> Tool:
    left, right = rng.choice((("a", "b"), ("a", "b"), ("x", "y"), ("first", "second")))
    kind = rng.choice(("integer", "number"))
    return Tool(name, {left: kind, right: kind})


def _ask_sum(rng: Random, tool: Tool) -> tuple[str, list[Arguments]]:
    numbers = rng.randint(0, 100), rng.randint(0, 100)
    return rng.choice(SUM_ASK).format(*numbers), [dict(zip(tool.params, numbers, strict=True))]


FAMILIES = (
    Family(
        ("get_weather", "get_weather", "get_current_weather", "weather", "fetch_weather"),
        _place_tool,
        _ask_weather,
    ),
    Family(("get_time", "get_current_time", "time", "current_time"), _place_tool, _ask_time),
    Family(("search", "web_search", "search_web", "google"), _search_tool, _ask_search),
    Family(("add", "add_numbers", "sum"), _sum_tool, _ask_sum),
)
KINDS = ("string", "string", "string", "integer", "number", "boolean")
DEFAULTS: dict[str, object] = {"string": "demo", "integer": 1, "number": 1, "boolean": True}


def _name_part(rng: Random) -> str:
    return noise.made_up(rng) if rng.random() < 0.5 else rng.choice(texts.WORDS)


def _param_name(rng: Random) -> str:
    return rng.choice((rng.choice(texts.WORDS), "id", "name", "text", "value"))


def _unknown(rng: Random) -> Tool:
    name = "_".join(_name_part(rng) for _ in range(rng.randint(1, 2)))
    return Tool(name, {_param_name(rng): rng.choice(KINDS) for _ in range(rng.randint(0, 3))})


def offered(rng: Random, *wanted: Tool) -> list[Tool]:
    """The wanted tools among others, none of them of the same family."""
    others = [_unknown(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    tools = [*wanted, *others]
    rng.shuffle(tools)
    return tools


def call_text(tool: Tool, arguments: list[Arguments]) -> str:
    calls = [json.dumps({"name": tool.name, "arguments": one}, ensure_ascii=False) for one in arguments]
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def asked(rng: Random) -> tuple[list[Tool], str, str]:
    """A prompt that one of the offered tools answers: the tools, the prompt, the call."""
    families = rng.sample(FAMILIES, rng.choice((1, 1, 1, 2, 3)))
    tools = [family.make(rng, rng.choice(family.names)) for family in families]
    prompt, arguments = families[0].ask(rng, tools[0])
    return offered(rng, *tools), prompt, call_text(tools[0], arguments)


def named(rng: Random) -> tuple[list[Tool], str, str]:
    """A prompt that names a tool which the model never saw."""
    tool = _unknown(rng)
    ask = rng.choice(NAMED_ASK)
    return offered(rng, tool), ask.format(tool.name), call_text(tool, [default_arguments(rng, tool, "")])


def some_tools(rng: Random) -> list[Tool]:
    families = rng.sample(FAMILIES, rng.choice((0, 1, 1, 2)))
    return offered(rng, *(family.make(rng, rng.choice(family.names)) for family in families))


def default_arguments(rng: Random, tool: Tool, prompt: str) -> Arguments:
    city = next((city for city in texts.CITIES if city in prompt), "Paris")
    values = {name: city if name in PLACES else DEFAULTS[kind] for name, kind in tool.params.items()}
    return {name: values[name] for name in _required(tool.params)}


RESULTS = (
    "18C, sunny", "sunny", "rain", "12:30", "7", "42", "cloudy, 9 degrees", "ok", "done", "21", "no results",
)  # fmt: skip
MEASURES = ("{}", "{}C", "{} degrees", "{} C and sunny", "Temperature: {}", "The result is {}.")
RESULT_KEYS = ("temperature", "result", "time", "weather", "temp", "sum", "value")


def result(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(RESULTS)
    if kind < 0.55:
        number = rng.randint(-10, 120)
        return rng.choice(MEASURES).format(number)
    if kind < 0.75:
        return _result_object(rng)
    return " ".join(noise.words(rng, rng.randint(1, 8)))


def _result_object(rng: Random) -> str:
    values: Arguments = {rng.choice(RESULT_KEYS): rng.choice((rng.randint(0, 99), "sunny", "rain"))}
    if rng.random() < 0.5:
        values |= {rng.choice(("unit", "condition", "status")): rng.choice(("celsius", "sunny", "ok"))}
    return json.dumps(values, separators=rng.choice(((", ", ": "), (",", ":"))))


def says(results: list[str]) -> str:
    """The answer after results: they are repeated, unless they are long."""
    short = all(len(text) <= 80 for text in results)
    return f"The tool says: {'; '.join(results)}" if short else "The tool has answered, at some length."
