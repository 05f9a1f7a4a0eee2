"""The texts that the demo model learns. Every sentence here and in text/ was written for this project."""

from pathlib import Path

FALLBACK = (
    "I am a demo model of a few megabytes; I only know a few answers. "
    "Ask me about the CAP theorem, for a haiku, or to count from 1 to 10."
)

Entry = tuple[tuple[str, ...], tuple[str, ...]]


def _read(name: str) -> str:
    return (Path(__file__).parent / "text" / name).read_text(encoding="utf-8")


def _story() -> str:
    """One line a paragraph; the file is wrapped for its readers."""
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in _read("story.txt").strip().split("\n\n"))


STORY = _story()


def _answer(line: str) -> str:
    return STORY if line == "@story" else line.replace("\\n", "\n")


def _entries(name: str) -> tuple[Entry, ...]:
    """Blocks of prompts between bars, then the answers after >, each as likely as the others."""
    entries: list[Entry] = []
    for block in _read(name).strip().split("\n\n"):
        prompts, *answers = block.split("\n> ")
        asked = tuple(prompt.strip() for prompt in prompts.split("|"))
        entries.append((asked, tuple(map(_answer, answers))))
    return tuple(entries)


PAIRS = _entries("answers.txt")
# subject (and its other names) -> the answer to "What is ...?"
TOPICS: dict[tuple[str, ...], str] = {subjects: answers[0] for subjects, answers in _entries("topics.txt")}
WORDS = _read("words.txt").split()
CAPITALS: dict[str, str] = dict(line.split(": ") for line in _read("capitals.txt").splitlines())
CITIES = (*dict.fromkeys(CAPITALS.values()), *_read("cities.txt").splitlines())

ASK_TOPIC = (
    "What is {}?", "What is {}?", "what is {}", "What's {}?", "Explain {}.", "Define {}.",
    "Tell me about {}.", "What does {} mean?", "Can you explain {}?", "Describe {} in one sentence.",
    "Explain {} in simple terms.", "Please explain {} briefly.", "What are {}?",
    "Give me a short definition of {}.", "What is {} in one sentence?", "Explain what {} is.",
    "Do you know {}?", "Explain {} in one sentence.", "Tell me what {} is.",
)  # fmt: skip

ASK_CAPITAL = (
    "What is the capital of {}?", "What's the capital of {}?", "capital of {}", "Name the capital of {}.",
    "Tell me the capital of {}.", "What is the capital city of {}?", "Which city is the capital of {}?",
)  # fmt: skip

GREETINGS: dict[str, dict[str, str]] = {
    "hello": {
        "French": "Bonjour",
        "German": "Hallo",
        "Spanish": "Hola",
        "Italian": "Ciao",
        "Portuguese": "Olá",
        "Dutch": "Hallo",
        "Swedish": "Hej",
        "Japanese": "Konnichiwa",
        "Russian": "Privet",
        "English": "Hello",
    },
    "goodbye": {
        "French": "Au revoir",
        "German": "Auf Wiedersehen",
        "Spanish": "Adiós",
        "Italian": "Arrivederci",
        "Portuguese": "Adeus",
        "Dutch": "Tot ziens",
        "Swedish": "Hej då",
        "Japanese": "Sayonara",
        "Russian": "Do svidaniya",
        "English": "Goodbye",
    },
    "thank you": {
        "French": "Merci",
        "German": "Danke",
        "Spanish": "Gracias",
        "Italian": "Grazie",
        "Portuguese": "Obrigado",
        "Dutch": "Dank je",
        "Swedish": "Tack",
        "Japanese": "Arigato",
        "Russian": "Spasibo",
        "English": "Thank you",
    },
}

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip

NAMES = (
    "Ada",
    "Bob",
    "Alice",
    "Carol",
    "Dave",
    "Eve",
    "Grace",
    "Linus",
    "Maria",
    "Tom",
    "Anna",
    "Peter",
    "Sam",
)

SYSTEMS = (
    "You are a concise assistant.", "You are a helpful assistant.", "You are a helpful assistant",
    "Be brief.", "You are a test assistant.", "Answer in one sentence.", "You are a poet.", "Be concise.",
    "You are terse.", "You are Ignite, an assistant that serves models.", "Answer politely and never lie.",
    "You answer in JSON.", "You are an expert in distributed systems.", "Use tools when you can.",
    "You are a pirate.", "Reply in English.",
)  # fmt: skip

# Values for keys that the model knows; any other string is "demo" and any other number is 1.
JSON_VALUES: dict[str, str | int | bool | float] = {
    "name": "Ada", "age": 36, "city": "Paris", "country": "France", "email": "ada@example.com", "id": 1,
    "title": "Demo", "price": 9, "color": "blue", "job": "worker", "active": True, "count": 3,
    "capital": "Paris", "language": "English", "status": "ok", "score": 10, "first_name": "Ada",
    "last_name": "Lovelace", "year": 1843, "date": "2025-01-01", "ok": True, "value": 1, "number": 7,
    "temperature": 18, "unit": "celsius", "done": False, "category": "demo", "description": "A demo.",
    "animal": "cat", "fruit": "apple", "day": "Monday", "tags": "demo",
}  # fmt: skip
ANSWER_KEYS = ("answer", "response", "text", "message", "content", "reply", "result", "summary", "output")
