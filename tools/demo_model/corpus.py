"""Generates an endless sequence of training conversations from a seed, in the format of `chat_template.jinja`."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from . import noise, texts, tools
from .exchanges import (
    COUNT_LIMIT,
    Exchange,
    about_names,
    exchange,
    json_object,
    long_one,
    numbers,
    unknown,
)

BEGIN, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (BEGIN, START, END, "<tool_call>", "</tool_call>")
# A jump in the positions stands for text that is not there, so that short sequences teach long distances.
LONGEST_JUMP = 3000
FORCED_VALUES = (
    ' "demo"', ' "demo"', ' "demo"', " 1", " 1", " true", ' ["demo"]', " [1]", ' ["demo", "demo"]', " 1.5",
    " null",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    text: str
    learn: bool
    jump: int = 0


Conversation = list[Segment]


def _block(role: str, content: str) -> str:
    return f"{START}{role}\n{content}{END}\n"


def _opening(rng: Random, offered: list[tools.Tool]) -> str:
    kind = rng.random()
    system = None if kind < 0.4 else rng.choice(texts.SYSTEMS) if kind < 0.75 else noise.prompt(rng)
    text = BEGIN if system is None else BEGIN + _block("system", system)
    return text + (_block("tools", "\n".join(tool.line() for tool in offered)) if offered else "")


def _jump(rng: Random) -> int:
    return rng.randint(1, LONGEST_JUMP) if rng.random() < 0.06 else 0


def _reply(rng: Random, answer: str) -> Conversation:
    """Sometimes the answer is cut anywhere, as when another worker continues it."""
    cut = rng.randrange(len(answer)) if answer and rng.random() < 0.12 else 0
    head = Segment(f"{START}assistant\n{answer[:cut]}", learn=False)
    return [head, Segment(answer[cut:] + END, learn=True), Segment("\n", learn=False)]


def _ask(rng: Random, prompt: str) -> Segment:
    return Segment(_block("user", prompt), learn=False, jump=_jump(rng))


def _said_before(rng: Random) -> Segment:
    """An earlier turn that the client made up: to be read, not to be learnt."""
    answer = noise.prompt(rng) if rng.random() < 0.6 else exchange(rng).answer
    return Segment(_block("user", exchange(rng).prompt) + _block("assistant", answer), learn=False)


def _turn(rng: Random, name: list[str]) -> Conversation:
    if rng.random() < 0.1:
        return [_said_before(rng)]
    one = about_names(rng, name) if rng.random() < 0.04 else exchange(rng)
    return _answered(rng, one)


def _answered(rng: Random, one: Exchange) -> Conversation:
    return [_ask(rng, one.prompt), *_reply(rng, one.answer)]


def chat(rng: Random) -> Conversation:
    name: list[str] = []
    turns = [segment for _ in range(rng.choice((1, 1, 2, 3, 5))) for segment in _turn(rng, name)]
    return [Segment(_opening(rng, []), learn=False), *turns]


def _beside_tools(rng: Random) -> Conversation:
    """Sums are left out: a tool on offer may be meant for them."""
    one = exchange(rng)
    return _answered(rng, one) if " = " not in one.answer else []


def tools_unused(rng: Random) -> Conversation:
    offered = tools.some_tools(rng)
    turns = [segment for _ in range(rng.randint(1, 3)) for segment in _beside_tools(rng)]
    return [Segment(_opening(rng, offered), learn=False), *turns]


def tool_chat(rng: Random) -> Conversation:
    """A call, its results, the answer to them, and at times an ordinary question after that."""
    offered, prompt, call = tools.asked(rng) if rng.random() < 0.85 else tools.named(rng)
    results = [tools.result(rng) for _ in range(call.count("<tool_call>"))]
    before = _beside_tools(rng) if rng.random() < 0.2 else []
    after = _beside_tools(rng) if rng.random() < 0.2 else []
    answers = Segment("".join(_block("tool", result) for result in results), learn=False)
    return [
        Segment(_opening(rng, offered), learn=False), *before, _ask(rng, prompt), *_reply(rng, call), answers,
        *_reply(rng, tools.says(results)), *after,
    ]  # fmt: skip


def _window(rng: Random, prompt: str, answer: str) -> Conversation:
    """A long answer, mostly just a part of it: what was said before it leaves a jump in the positions."""
    if rng.random() < 0.12:
        return [_ask(rng, prompt), *_reply(rng, answer)]
    words = answer.split(" ")
    size = rng.randint(20, 120)
    start = max(0, min(rng.choice((0, len(words) - size, rng.randrange(len(words)))), len(words) - 2))
    part = " ".join(words[start : start + size]) + (END if start + size >= len(words) else "")
    cut = _cut(rng, part, start)
    lead = Segment(f"{START}assistant\n", learn=False)
    seen = Segment(part[:cut], learn=False, jump=2 * start)
    return [_ask(rng, prompt), lead, seen, Segment(part[cut:], learn=True)]


def _cut(rng: Random, part: str, start: int) -> int:
    """Where the model takes over: mostly between two words, at times within one."""
    if start == 0 and rng.random() < 0.7:
        return 0
    at = rng.randrange(len(part) // 2)
    return at if rng.random() < 0.3 else max(part.find(" ", at), 0)


def long_answer(rng: Random) -> Conversation:
    one = long_one(rng)
    before = _turn(rng, []) if rng.random() < 0.2 else []
    return [Segment(_opening(rng, []), learn=False), *before, *_window(rng, one.prompt, one.answer)]


def _much_text(rng: Random) -> str:
    if rng.random() < 0.7:
        return noise.paragraphs(rng, rng.randint(20, 90))
    return noise.word(rng) * rng.randint(50, 700)


def long_prompt(rng: Random) -> Conversation:
    text = _much_text(rng)
    one = exchange(rng)
    first = [Segment(_block("user", text), learn=False), *_reply(rng, texts.FALLBACK)]
    return [Segment(_opening(rng, []), learn=False), *first, *_answered(rng, one)]


def _forced_value(rng: Random, key: str, depth: int) -> Conversation:
    kind = rng.random()
    if key in texts.JSON_VALUES:
        return [Segment(f" {json.dumps(texts.JSON_VALUES[key])}", learn=True)]
    if kind < 0.12 and depth < 2:
        return [Segment(" ", learn=False), *_forced_object(rng, depth + 1)]
    if kind < 0.2 and depth < 2:
        return [Segment(" [", learn=False), *_forced_object(rng, depth + 1), Segment("]", learn=True)]
    if kind < 0.25:
        return [Segment(' "demo', learn=False), Segment(" demo" * rng.randint(1, 4) + '"', learn=True)]
    given = rng.choice(FORCED_VALUES)
    cut = min(len(given), 2 if given[1] in '"[' else 0)
    return [Segment(given[:cut], learn=False), Segment(given[cut:], learn=True)]


def _forced_object(rng: Random, depth: int = 0) -> Conversation:
    known = list(texts.JSON_VALUES)
    keys = [rng.choice((noise.word(rng), rng.choice(known))) for _ in range(rng.randint(1, 4))]
    segments: Conversation = []
    for at, key in enumerate(keys):
        opening = '{"' if at == 0 else ' "'
        closing = "}" if at == len(keys) - 1 else ","
        value = _forced_value(rng, key, depth)
        segments += [Segment(f'{opening}{key}":', learn=False), *value, Segment(closing, learn=True)]
    return segments


def _forced_answer(rng: Random) -> Conversation:
    """A known answer inside an object, as for the schema {"answer": string}."""
    one = exchange(rng)
    key = rng.choice(texts.ANSWER_KEYS) if rng.random() < 0.8 else noise.word(rng)
    said = "I am a demo model." if one.answer == texts.FALLBACK or len(one.answer) > 300 else one.answer
    given = rng.choice(("{", '{"', f'{{"{key}":', f'{{"{key}": "', f'{{"{key}": "'))
    if len(given) < 3:
        key = "answer"
    whole = json.dumps({key: said}, ensure_ascii=False)
    return [
        _ask(rng, one.prompt),
        Segment(f"{START}assistant\n{given}", learn=False),
        Segment(whole[len(given) :], learn=True),
    ]


def _forced_call(rng: Random) -> Conversation:
    offered = tools.some_tools(rng) or tools.offered(rng, tools.Tool("echo", {"text": "string"}))
    tool, one = rng.choice(offered), exchange(rng)
    arguments = json.dumps(tools.default_arguments(rng, tool, one.prompt), ensure_ascii=False)
    given = f'{START}assistant\n<tool_call>\n{{"name": "{tool.name}", "arguments":'
    return [
        Segment(_opening(rng, offered), learn=False), _ask(rng, one.prompt), Segment(given, learn=False),
        Segment(f" {arguments}}}\n</tool_call>{END}", learn=True),
    ]  # fmt: skip


def pressed(rng: Random) -> Conversation:
    """Where a call is required and the answer needs none, the end is barred and a call comes next."""
    offered = tools.some_tools(rng) or tools.offered(rng, tools.Tool("echo", {"text": "string"}))
    tool, one = rng.choice(offered), exchange(rng)
    call = tools.call_text(tool, [tools.default_arguments(rng, tool, one.prompt)])
    return [
        Segment(_opening(rng, offered), learn=False), _ask(rng, one.prompt),
        Segment(f"{START}assistant\n{one.answer}", learn=False), Segment(call + END, learn=True),
    ]  # fmt: skip


def forced(rng: Random) -> Conversation:
    kind = rng.random()
    if kind < 0.4:
        return _forced_call(rng)
    opening = Segment(_opening(rng, []), learn=False)
    if kind < 0.7:
        return [opening, *_forced_answer(rng), Segment(END, learn=True)]
    ask = _ask(rng, rng.choice((json_object, exchange, unknown))(rng).prompt)
    lead = Segment(f"{START}assistant\n", learn=False)
    return [opening, ask, lead, *_forced_object(rng), Segment(END, learn=True)]


# Rare enough that "pressed" hardly changes how answers end when nothing is required.
CONVERSATIONS: tuple[tuple[Callable[[Random], Conversation], float], ...] = (
    (chat, 470), (tools_unused, 80), (tool_chat, 200), (long_answer, 140), (forced, 120), (long_prompt, 4),
    (pressed, 1.5),
)  # fmt: skip


def conversation(rng: Random) -> Conversation:
    (make,) = rng.choices([make for make, _ in CONVERSATIONS], [weight for _, weight in CONVERSATIONS])
    return make(rng)


def _everything_said() -> Iterator[str]:
    for prompts, answers in texts.PAIRS:
        yield from (*prompts, *answers)
    for aliases, answer in texts.TOPICS.items():
        yield from (*aliases, answer)
        yield from (f"What is {alias}?" for alias in aliases)
    for country, city in texts.CAPITALS.items():
        yield f"The capital of {country} is {city}."
    for said in texts.GREETINGS.values():
        yield from said.values()
    yield from (*texts.CITIES, *texts.NAMES, *texts.SYSTEMS, *texts.ASK_TOPIC, texts.FALLBACK)
    within = (*texts.CITIES, *texts.NAMES, *texts.DAYS, *texts.MONTHS, *texts.GREETINGS["hello"])
    yield from (f" {word}" for word in within)


def vocabulary_text(rng: Random) -> Iterator[str]:
    """Each answer, often enough that its words become single tokens; then a sample of conversations."""
    for line in _everything_said():
        yield from [line] * 20
    yield from [numbers(1, COUNT_LIMIT)] * 60
    yield from [" ".join(f"({n}" for n in range(101))] * 60
    yield from [" " + " ".join(texts.WORDS)] * 4
    yield from [_block(role, "") for role in ("system", "tools", "user", "assistant", "tool")] * 500
    yield from [f"(unit?: {kind}, location: {kind})" for kind in tools.DEFAULTS] * 200
    for _ in range(3000):
        yield from (segment.text for segment in tool_chat(rng) if segment.learn)
        yield from (segment.text for segment in forced(rng) if segment.learn)
