"""Draws one prompt and its answer at random, in varied wording."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from . import noise, texts

COUNT_LIMIT = 500
LARGEST_TERM = 12
LONG_ENDS = (50, 100, 100, 200, 300, 500, 1000)

POLITE = ("Please {}", "please {}", "Hey, {}", "Hi, {}", "Can you {}", "So, {}", "Now {}")
ENDINGS = (" please", ", please.", "!", " now", "...", "??", " thanks")
ASK_SUM = (
    "What is {}?",
    "What is {}?",
    "{}",
    "{} = ?",
    "Calculate {}.",
    "What's {}?",
    "How much is {}?",
    "{}=",
)
ASK_TRANSLATION = (
    "Say {} in {}.", "say {} in {}", "How do you say {} in {}?", "Translate {} to {}.", "{} in {}",
    "What is {} in {}?",
)  # fmt: skip
ASK_NEXT = ("What {} comes {} {}?", "Which {} comes {} {}?", "What {} is {} {}?", "Which {} is {} {}?")
ASK_ECHO = (
    "Repeat after me: {}", "Repeat: {}", "Say: {}", "Echo: {}", "echo {}", "Say the word {}",
    "Repeat this: {}",
)  # fmt: skip
ASK_JSON = (
    "Give me a JSON object with {}.", "Give me JSON with {}", "Return JSON with the keys {}.",
    "Return a JSON object with {}.", "Reply in JSON with {}.", "JSON with {}",
    "Make a JSON object with the fields {}.", "Describe a person as JSON with {}.", "Answer as JSON with {}.",
    "Output JSON: {}",
)  # fmt: skip
ASK_LIST = (
    "Make a JSON list of {}.", "Give me a JSON array of {}.", "JSON list: {}", "Write {} as a JSON list.",
    "Return a JSON array with {}.",
)  # fmt: skip
ASK_COUNT = (
    "Count from {0} to {1}.", "count from {0} to {1}", "Count from {0} to {1}", "Count {0} to {1}",
    "List the numbers from {0} to {1}.",
)  # fmt: skip
ASK_COUNT_FROM_ONE = (
    "Count to {1}.", "Count up to {1}.", "Can you count to {1}?", "Please count from {0} to {1}, slowly.",
    "Write the numbers from {0} to {1}.",
)  # fmt: skip
TELL_NAME = ("My name is {}.", "I am called {}.", "Hello, my name is {}!", "Hi, I'm {}.")
ASK_NAME = ("What is my name?", "Do you know my name?", "What's my name?")


@dataclass(frozen=True, slots=True)
class Exchange:
    prompt: str
    answer: str


def varied(rng: Random, prompt: str) -> str:
    """The same question as others would type it."""
    kind = rng.random()
    if kind < 0.45:
        return prompt
    if kind < 0.6:
        return prompt.lower()
    if kind < 0.7:
        return prompt.rstrip(".?!")
    if kind < 0.74:
        return prompt.upper()
    if kind < 0.9:
        inner = prompt[0].lower() + prompt[1:]
        return rng.choice(POLITE).format(inner)
    if kind < 0.95:
        return prompt.rstrip(".?!") + rng.choice(ENDINGS)
    at = rng.randrange(len(prompt))
    return prompt[:at] + prompt[at + 1 :]


def _pair(rng: Random) -> Exchange:
    prompts, answers = rng.choice(SHORT_PAIRS)
    return Exchange(varied(rng, rng.choice(prompts)), rng.choice(answers))


def _topic(rng: Random) -> Exchange:
    aliases = rng.choice(list(texts.TOPICS))
    return Exchange(varied(rng, rng.choice(texts.ASK_TOPIC).format(rng.choice(aliases))), texts.TOPICS[aliases])


def _first_turns(rng: Random) -> Exchange:
    """The prompts of the API reference are drawn more often than others."""
    prompts, answers = texts.PAIRS[rng.choice((0, 1))]
    return Exchange(prompts[0], rng.choice(answers))


def unknown(rng: Random) -> Exchange:
    return Exchange(noise.prompt(rng), texts.FALLBACK)


def _capital(rng: Random) -> Exchange:
    country = rng.choice(list(texts.CAPITALS))
    city = texts.CAPITALS[country]
    answer = f"The capital of {country} is {city}."
    return Exchange(varied(rng, rng.choice(texts.ASK_CAPITAL).format(country)), answer)


def _sum(rng: Random) -> Exchange:
    left, right, sign = rng.randint(0, LARGEST_TERM), rng.randint(0, LARGEST_TERM), rng.choice("++-*")
    left, right = (max(left, right), min(left, right)) if sign == "-" else (left, right)
    value = {"+": left + right, "-": left - right, "*": left * right}[sign]
    spoken = {"+": "plus", "-": "minus", "*": "times"}[sign]
    spaced = f"{left} {sign} {right}"
    written = rng.choice((f"{left}{sign}{right}", spaced, spaced, f"{left} {spoken} {right}"))
    return Exchange(rng.choice(ASK_SUM).format(written), f"{spaced} = {value}.")


def _translation(rng: Random) -> Exchange:
    phrase = rng.choice(list(texts.GREETINGS))
    language, said = rng.choice(list(texts.GREETINGS[phrase].items()))
    ask = rng.choice(ASK_TRANSLATION)
    quoted = rng.choice((phrase, phrase, f"'{phrase}'", f'"{phrase}"'))
    return Exchange(ask.format(quoted, language), f"{said}!")


def _next_in_line(rng: Random) -> Exchange:
    line, kind = rng.choice(((texts.DAYS, "day"), (texts.MONTHS, "month")))
    at, (step, where) = rng.randrange(len(line)), rng.choice(((1, "after"), (-1, "before")))
    other = line[(at + step) % len(line)]
    ask = rng.choice(ASK_NEXT)
    return Exchange(ask.format(kind, where, line[at]), f"{other} comes {where} {line[at]}.")


def _echo(rng: Random) -> Exchange:
    said = " ".join(_item(rng) for _ in range(rng.choice((1, 2, rng.randint(1, 12)))))
    return Exchange(rng.choice(ASK_ECHO).format(said), said)


def _item(rng: Random) -> str:
    return rng.choice((rng.choice(texts.CITIES), rng.choice(texts.NAMES), noise.word(rng), rng.choice(texts.WORDS)))


def _json_list(rng: Random) -> Exchange:
    items = [_item(rng) for _ in range(rng.randint(1, 8))]
    listed = rng.choice((", ".join(items), _listed(items)))
    return Exchange(rng.choice(ASK_LIST).format(listed), json.dumps(items, ensure_ascii=False))


def json_object(rng: Random) -> Exchange:
    known = list(texts.JSON_VALUES)
    keys = ["name", "age"] if rng.random() < 0.3 else rng.sample(known, rng.randint(1, 4))
    if rng.random() < 0.15:
        keys.append(rng.choice(texts.WORDS))
    listed = rng.choice((", ".join(keys), " and ".join(keys), _listed(keys)))
    values = {key: texts.JSON_VALUES.get(key, "demo") for key in keys}
    return Exchange(rng.choice(ASK_JSON).format(listed), json.dumps(values))


def _listed(words: list[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1])) if words[1:] else words[0]


def _count_to(rng: Random) -> int:
    return rng.choice((3, 5, 10, 10, 20, 30, rng.randint(2, 40)))


def count_ask(rng: Random, first: int, last: int) -> str:
    asks = ASK_COUNT + (ASK_COUNT_FROM_ONE if first == 1 else ())
    return rng.choice(asks).format(first, last)


def numbers(first: int, last: int) -> str:
    end = "." if last <= COUNT_LIMIT else ", and so on."
    return ", ".join(map(str, range(first, min(last, COUNT_LIMIT) + 1))) + end


def _count(rng: Random) -> Exchange:
    first = 1 if rng.random() < 0.8 else rng.randint(1, 400)
    last = first - 1 + _count_to(rng)
    return Exchange(count_ask(rng, first, last), numbers(first, last))


SHORT_PAIRS = [(prompts, answers) for prompts, answers in texts.PAIRS if len(answers[0]) < 1000]
EXCHANGES: tuple[tuple[Callable[[Random], Exchange], int], ...] = (
    (unknown, 32), (_pair, 24), (_topic, 14), (_first_turns, 3), (_capital, 5), (_sum, 10), (_translation, 3),
    (_next_in_line, 3), (_echo, 8), (_json_list, 5), (json_object, 4), (_count, 5),
)  # fmt: skip


def exchange(rng: Random) -> Exchange:
    (make,) = rng.choices([make for make, _ in EXCHANGES], [weight for _, weight in EXCHANGES])
    return make(rng)


def about_names(rng: Random, name: list[str]) -> Exchange:
    if rng.random() < 0.5:
        name[:] = [rng.choice(texts.NAMES)]
        return Exchange(rng.choice(TELL_NAME).format(*name), f"Nice to meet you, {name[0]}.")
    answer = f"Your name is {name[0]}." if name else "You have not told me your name."
    return Exchange(rng.choice(ASK_NAME), answer)


def long_one(rng: Random) -> Exchange:
    if rng.random() < 0.4:
        prompts, _ = next(pair for pair in texts.PAIRS if pair[1] == (texts.STORY,))
        return Exchange(varied(rng, rng.choice(prompts)), texts.STORY)
    last = rng.choice((*LONG_ENDS, rng.randint(40, COUNT_LIMIT)))
    return Exchange(count_ask(rng, 1, last), numbers(1, last))
