"""Generates random prompts that the demo model cannot answer, so that it learns to say so and stop."""

from random import Random

from . import texts

ASK = (
    "What is {}?", "What is a {}?", "What is the {} of {}?", "How do I {} a {}?", "Explain {} to a {}.",
    "Why is {} so {}?", "Write a poem about {} and {}.", "Write a {} for my {}.",
    "Translate '{} {} {}' to {}.",
    "Who invented the {}?", "When did the {} {}?", "Compare {} and {}.", "Give me five ideas for {}.",
    "What happens if a {} meets a {}?", "Summarize the {} {} in one sentence.",
    "Summarize this: {} {} {} {} {}",
    "Can you {} the {}?", "Please {} my {}.", "List ten {} that {}.", "Is {} better than {}?", "Who is {}?",
    "Write code that {} a {}.", "What do you think about {}?", "How many {} are in a {}?",
    "Tell me about {}.",
    "I want to {} a {} with my {}, what should I do?", "Define {}.", "Explain {}.", "What are {} {}?",
    "Which {} is the {}?", "Where can I {} a {}?", "Write a limerick about {}.", "Draw a {}.",
    "Fix this {}: {}",
    "What does {} mean?", "Where is {}?", "Should I {} or {}?", "Describe {} in one sentence.",
    "What is the capital of {}?", "Say {} in {}.", "What is the difference between {} and {}?",
    "Do you like {}?",
    "Name the {} of the {}.", "What is the {} in {}?", "My {} is {}.", "I am {}.", "Remember the {} {}.",
    "What is the {} of {}?", "I feel {} {}.", "Sort these {}: {}, {}, {}", "{} me a {} {}", "Generate a {}.",
    "Who was the {} {} of {}?", "Explain {} {} to a {} {} {}.", "What should I {} {}?",
    "Recommend a {} about {}.",
)  # fmt: skip

SCRIPTS = (
    (0x0430, 0x044F), (0x03B1, 0x03C9), (0x4E00, 0x9FA5), (0x3041, 0x3096), (0xAC00, 0xD7A3), (0x0627,
    0x064A),
    (0x05D0, 0x05EA), (0x0905, 0x0939), (0x1F600, 0x1F64F), (0x00E0, 0x00FF), (0x2190, 0x22FF), (0x1F300,
    0x1F5FF),
)  # fmt: skip
_SYLLABLES = (
    "ba be bi bo ca co cu da de di do fa fe ga go ha he in is ka ki la le lo ma mi mo na ne no or pa pe "
    "qua ra re ri ro sa se shi so sta ta te th ti to tra tu un va ve vi wa wo xy za ly er ing tion ed s t "
    "n ck st "
)
SYLLABLES = _SYLLABLES.split()

SNIPPETS = (
    "def {0}({1}):\n    return {1} + {2}", "for {0} in range({2}):\n    print({0})", "import {0}\n{0}.{1}()",
    "SELECT {0} FROM {1} WHERE {2} = 1;", "<div class=\"{0}\">{1}</div>", "{{\"{0}\": \"{1}\", \"{2}\": 3}}",
    "const {0} = ({1}) => {{ {2}({1}); }};", "class {0}:\n    def {1}(self):\n        self.{2} = 1",
    "curl -X POST http://{0}/{1} -d '{2}'", "{0}: {1}\n  - {2}", "if ({0} == {1}) {{ return {2}; }}",
    "Traceback (most recent call last):\n  File \"{0}.py\", line 12, in {1}\n{2}Error: {0}",
    "#include <{0}.h>",
    "[{0}]({1}) **{2}**", "$ {0} --{1} {2}", "https://{0}.example/{1}?{2}=1",
    "user: {0}\nassistant: {1}\nuser: {2}",
)  # fmt: skip


def _known_words() -> list[str]:
    questions = [prompt for prompts, _ in texts.PAIRS for prompt in prompts]
    topics = [f"{alias} {answer}" for aliases, answer in texts.TOPICS.items() for alias in aliases]
    return sorted({word for line in (*questions, *topics, texts.STORY) for word in line.split()})


KNOWN = _known_words()
PLACES = sorted({*texts.CAPITALS, *texts.CITIES, *texts.GREETINGS["hello"]})


def made_up(rng: Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=rng.randint(1, 4)))


def word(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(texts.WORDS)
    if kind < 0.58:
        return rng.choice(KNOWN)
    if kind < 0.62:
        return rng.choice(PLACES)
    if kind < 0.66:
        return str(rng.randint(0, 200))
    name = made_up(rng)
    return name.capitalize() if kind > 0.85 else name


def words(rng: Random, count: int) -> list[str]:
    return [word(rng) for _ in range(count)]


def question(rng: Random) -> str:
    ask = rng.choice(ASK)
    return ask.format(*words(rng, ask.count("{}")))


def two_questions(rng: Random) -> str:
    return f"{question(rng)} {question(rng)}"


def salad(rng: Random) -> str:
    return " ".join(words(rng, rng.randint(2, 25))) + rng.choice(("", ".", "?", "!"))


def single(rng: Random) -> str:
    return word(rng) + rng.choice(("", "", ".", "?", "!"))


def snippet(rng: Random) -> str:
    return rng.choice(("", "", "Fix this:\n", "Explain:\n", "Review: ")) + rng.choice(SNIPPETS).format(*words(rng, 3))


def foreign(rng: Random) -> str:
    first, last = rng.choice(SCRIPTS)
    pieces = (
        "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8))) for _ in range(rng.randint(1, 6))
    )
    return " ".join(pieces) + rng.choice(("", "?", "。", "!"))


def mixed(rng: Random) -> str:
    return f"{question(rng)} {foreign(rng)} {single(rng)}"


def symbols(rng: Random) -> str:
    alphabet = rng.choice(
        ("0123456789", "0123456789abcdef", "!@#$%^&*()_+-=[]{};:,.<>/?", "ABCDEFxyz019+/=", "abcdefghij ")
    )
    return "".join(rng.choices(alphabet, k=rng.randint(1, 40)))


def sentence(rng: Random) -> str:
    return " ".join(words(rng, rng.randint(4, 14))).capitalize() + "."


def paragraphs(rng: Random, sentences: int) -> str:
    return "".join(sentence(rng) + rng.choice((" ", " ", " ", "\n", "\n\n")) for _ in range(sentences)).strip()


def some_paragraphs(rng: Random) -> str:
    return paragraphs(rng, rng.randint(2, 10))


def repeated(rng: Random) -> str:
    unit = rng.choice((word(rng), word(rng) + " ", sentence(rng) + " ", "x", "a ", "hello ", "word ", "test "))
    return (unit * rng.randint(5, 60)).strip()


def numbered(rng: Random) -> str:
    return f"{word(rng)} {rng.randint(0, 99999)} {rng.choice(('', word(rng)))}".strip()


def hard_sum(rng: Random) -> str:
    left, right = rng.randint(13, 99999), rng.randint(0, 999)
    return rng.choice(("What is {} {} {}?", "{} {} {}", "Calculate {} {} {}.")).format(left, rng.choice("+-*/^"), right)


KINDS = (
    (question, 30), (two_questions, 4), (salad, 14), (single, 8), (snippet, 8), (foreign, 7), (mixed, 4),
    (symbols, 6),
    (some_paragraphs, 5), (repeated, 4), (numbered, 4), (hard_sum, 4), (sentence, 6),
)  # fmt: skip


def prompt(rng: Random) -> str:
    """One prompt without an answer; very rarely an empty one."""
    if rng.random() < 0.01:
        return ""
    (make,) = rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])
    return make(rng)
