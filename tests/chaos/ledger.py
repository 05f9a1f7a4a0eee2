"""The campaign's own record: requests, every received byte with its time, and the faults."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.chaos.plan import Kind
from tests.support.chat import Prompt

DONE = "[DONE]"
TAG = "chaos"
METRICS_KEY = "sk-chaos-0123456789-metrics"
KEYS = {f"sk-chaos-0123456789-{tenant}": tenant for tenant in ("alice", "bob", "carol")}
"""The clients' keys. Each belongs to another tenant, and clients use them in turn."""


def signed_with(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


class Use(StrEnum):
    """The kind of a client's call."""

    STREAM = "stream"
    UNARY = "unary call"
    BACKGROUND = "background job"
    CANCELLED_JOB = "background job, cancelled"
    CANCELLED_STREAM = "stream, cancelled"
    LEFT_STREAM = "stream, client hangs up"
    LEFT_UNARY = "unary call, client hangs up"


STREAMED = frozenset({Use.STREAM, Use.CANCELLED_STREAM, Use.LEFT_STREAM})
GIVEN_UP = frozenset({Use.CANCELLED_JOB, Use.CANCELLED_STREAM, Use.LEFT_STREAM, Use.LEFT_UNARY})


class End(StrEnum):
    OPEN = "still open"
    WHOLE = "ended in order"
    CUT = "cut"
    LEFT = "left by the client"


@dataclass(frozen=True)
class SignedPrompt(Prompt):
    """A request. With `signed`, each token contains the mark of its attempt, so the text is not known in advance."""

    signed: bool = False

    def body(self, **more: Any) -> dict[str, Any]:
        body = super().body(**more)
        if self.signed:
            body["messages"][0]["content"] += " sign=1"
        return body


@dataclass(frozen=True)
class Frame:
    """A received frame. `number`: its `id:` field, for events; `at`: time of its last byte."""

    data: str
    at: float
    number: int | None = None


@dataclass
class Answer:
    """One HTTP answer as far as it was received. Status 0: no answer."""

    api: str
    path: str
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    status: int = 0
    retry_after: str = ""
    job_id: str = ""
    pieces: list[tuple[float, bytes]] = field(default_factory=list[tuple[float, bytes]])
    end: End = End.OPEN
    error: str = ""

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    @property
    def frames(self) -> list[Frame]:
        return list(frames_in(self.pieces))

    def json(self) -> Any:
        """The parsed JSON; None if it is not JSON."""
        try:
            return json.loads(self.data)
        except ValueError:
            return None


def frames_in(pieces: Iterable[tuple[float, bytes]]) -> Iterable[Frame]:
    """The complete frames, without comments."""
    rest = b""
    for at, data in pieces:
        *whole, rest = (rest + data).split(b"\n\n")
        for part in whole:
            named = (line.partition(": ") for line in part.decode(errors="replace").split("\n"))
            fields = {name: value for name, _, value in named}
            if "data" in fields:
                yield Frame(fields["data"], at, int(fields["id"]) if "id" in fields else None)


@dataclass
class Call:
    """One request, its first answer, and the answers with which its client resumed it."""

    tag: str
    use: Use
    prompt: SignedPrompt
    answers: list[Answer] = field(default_factory=list[Answer])
    polls: list[Answer] = field(default_factory=list[Answer])
    cancel: Answer | None = None

    @property
    def key(self) -> str:
        return list(KEYS)[int(self.tag) % len(KEYS)]

    @property
    def first(self) -> Answer:
        return self.answers[0]

    @property
    def accepted(self) -> bool:
        return bool(self.answers) and self.first.status in (200, 202)

    @property
    def refused(self) -> bool:
        return bool(self.answers) and self.first.status in (429, 503)

    @property
    def job_id(self) -> str:
        return self.first.job_id if self.answers else ""

    @property
    def resumed(self) -> bool:
        return any(answer.status == 200 for answer in self.answers[1:])

    @property
    def frames(self) -> list[Frame]:
        """The bytes that the client has received of its stream, over all answers."""
        return [frame for answer in self.answers if answer.status == 200 for frame in answer.frames]

    @property
    def open(self) -> bool:
        """Whether the client was still waiting at the end of the campaign."""
        return any(answer.end is End.OPEN for answer in self.all_answers)

    @property
    def all_answers(self) -> list[Answer]:
        return [*self.answers, *self.polls, *([self.cancel] if self.cancel else [])]


@dataclass(frozen=True)
class Struck:
    """A fault. `held`: the jobs that the affected worker held."""

    kind: Kind
    at: float
    name: str
    held: frozenset[str] = frozenset()


@dataclass
class Ledger:
    calls: list[Call] = field(default_factory=list[Call])
    struck: list[Struck] = field(default_factory=list[Struck])
    skipped: int = 0
    mishaps: list[str] = field(default_factory=list[str])
    """Unexpected behaviour of processes, one sentence each."""

    def begin(self, use: Use, prompt: SignedPrompt) -> Call:
        call = Call(str(len(self.calls)), use, prompt)
        self.calls.append(call)
        return call

    @property
    def killed(self) -> dict[str, float]:
        """Yields each killed API with the time."""
        return {each.name: each.at for each in self.struck if each.kind is Kind.API_KILLED}
