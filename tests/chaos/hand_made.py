"""A ledger and an aftermath without violations, made by hand, in which tests break one thing at a time."""

import json
from typing import Any

from tests.chaos.aftermath import Aftermath, JobState
from tests.chaos.ledger import Answer, End, Ledger, SignedPrompt, Struck, Use
from tests.chaos.plan import Kind
from tests.support.chat import compact, stream_of

API, OTHER_API = "api-1.1", "api-2.1"
MARKS = ("aaaa", "aaaa", "bbbb", "bbbb")
PLAIN = SignedPrompt(seed=7, tokens=4)
SIGNED = SignedPrompt(seed=7, tokens=4, signed=True)


def head(job_id: str) -> dict[str, Any]:
    return {"id": job_id, "object": "chat.completion.chunk", "created": 1, "model": "simulated"}


def words(prompt: SignedPrompt, marks: tuple[str, ...] = MARKS) -> list[str]:
    signs = [f".{mark}" if prompt.signed else "" for mark in marks]
    return [word + sign for word, sign in zip(prompt.words, signs, strict=True)]


def frames_of(stream: str) -> list[str]:
    return [part + "\n\n" for part in stream.split("\n\n")[:-1]]


def numbered(frames: list[str], first: int = 0) -> bytes:
    return "".join(f"id: {number}\n{frame}" for number, frame in enumerate(frames, first)).encode()


def pieces(frames: list[str], began: float = 0.0) -> list[tuple[float, bytes]]:
    """Returns pieces that arrive every tenth of a second."""
    return [(began + at / 10, frame.encode()) for at, frame in enumerate(frames)]


def result_of(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def job_answer(status: str, api: str = API) -> Answer:
    return ended(Answer(api, "/v1/jobs/job", status=200, pieces=[(0.0, compact({"status": status}).encode())]))


def ended(answer: Answer, end: End = End.WHOLE) -> Answer:
    answer.end = end
    return answer


class Scene:
    """One call and its job."""

    def __init__(self, use: Use = Use.STREAM, prompt: SignedPrompt = PLAIN, status: str = "completed") -> None:
        self.ledger, self.aftermath = Ledger(), Aftermath()
        self.call = self.ledger.begin(use, prompt)
        self.job_id = f"chatcmpl-{self.call.tag}"
        self.stream = stream_of(head(self.job_id), words(prompt))
        self.frames = frames_of(self.stream)
        self.answer = ended(Answer(API, "/v1/chat/completions", status=200, job_id=self.job_id))
        self.call.answers.append(self.answer)
        self.answer.pieces = pieces(self.frames)
        self.state = JobState(self.call.tag, [status, status], events=numbered(self.frames))
        self.state.results = [(200, result_of("".join(words(prompt))))] * 2
        self.aftermath.jobs[self.job_id] = self.state
        self.aftermath.listed[self.job_id] = self.call.tag


def cut_and_resumed(at: int = 3) -> Scene:
    """Cuts a call after that many frames, because its API was killed; another API sends the rest."""
    scene = Scene(prompt=SIGNED)
    scene.answer.pieces = pieces(scene.frames[:at])
    ended(scene.answer, End.CUT)
    rest = ended(Answer(OTHER_API, "/v1/jobs/job/events", status=200))
    rest.pieces = [(9.0, numbered(scene.frames[at:], at))]
    scene.call.answers.append(rest)
    strike(scene.ledger, Kind.API_KILLED, API, at=0.0)
    return scene


def strike(ledger: Ledger, kind: Kind, name: str, at: float, held: frozenset[str] = frozenset()) -> None:
    ledger.struck.append(Struck(kind, at, name, held))
