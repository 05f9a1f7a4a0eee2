"""An engine scripted by its requests, and a bench that runs executions."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson

from shared.backends.embedded.backend import open_embedded
from shared.errors import EngineError, EngineRefused
from shared.job import Job, JobStatus
from shared.ports import Backend, Consumer, Delivery, Ending, Message, ModelInfo, WorkerInfo
from tests.contract.performers import QUEUE, count_waiting, message_for, new_job, next_of, record_of
from tests.support.wait_until import wait_until
from worker.context import WorkerContext
from worker.engines.base import Chunk, Completion, ModelCard, OneModel, Request
from worker.execution import Execution
from worker.failed_attempts import FailedAttempts
from worker.stream.fold import fold
from worker.throttle import Throttle

ANSWER = ("one", " two", " three", " four")
USAGE = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
WORKER = "worker-1"


def chunk(*choices: dict[str, Any], **more: Any) -> Chunk:
    return {"id": "engine-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


def delta(content: str | None = None, *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    said = {"content": content} if content is not None else {}
    return {"index": index, "delta": {**said, **more}, "logprobs": None, "finish_reason": finish}


def content_of(each: Chunk) -> str:
    return "".join(part["delta"].get("content") or "" for part in each["choices"])


class ScriptedEngine(OneModel):
    """The last message names one of the scripts below. `aborted`: number of aborted answers."""

    card = ModelCard(QUEUE.model, "scripted")

    def __init__(self, *, concurrency: int = 4, continues_text: bool = False) -> None:
        self.concurrency = concurrency
        self.continues_text = continues_text
        self.asked: Counter[str] = Counter()
        self.requests: list[Request] = []
        self.prefixes: list[str] = []
        self.waiting_for_health = 0
        self.running = 0
        self.most_running = 0
        self.aborted = 0
        self.hold = asyncio.Event()
        self.well = asyncio.Event()
        self.well.set()
        self.ill = asyncio.Event()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def wait_unhealthy(self) -> str:
        await self.ill.wait()
        return "it was told to be"

    async def wait_healthy(self) -> None:
        self.waiting_for_health += 1
        await self.well.wait()
        self.waiting_for_health -= 1

    def fall_ill(self) -> None:
        self.well.clear()
        self.ill.set()

    def recover(self) -> None:
        self.ill.clear()
        self.well.set()

    async def complete(self, request: Request) -> Completion:
        return fold([chunk async for chunk in self.generate(request)])

    def continues_from(self, request: Request, prefix: str, progress: bytes) -> bool:
        return self.continues_text

    async def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk, None]:
        says = request["messages"][-1]["content"]
        self.asked[says] += 1
        self.requests.append(request)
        self.prefixes.append(prefix)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async for each in SCRIPTS[says](self, self.asked[says]):
                said = content_of(each)
                if said and prefix.startswith(said):
                    prefix = prefix[len(said) :]
                else:
                    yield each
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted += 1
            raise
        finally:
            self.running -= 1


Script = Callable[[ScriptedEngine, int], AsyncGenerator[Chunk, None]]


async def answer(_: ScriptedEngine, __: int) -> AsyncGenerator[Chunk, None]:
    yield chunk(delta("", role="assistant"))
    for word in ANSWER:
        yield chunk(delta(word))
    yield chunk(delta(finish="stop"))
    yield chunk(usage=USAGE)


async def refuse(_: ScriptedEngine, __: int) -> AsyncGenerator[Chunk, None]:
    raise EngineRefused("The context is 16 tokens long.", code="context_length_exceeded", param="messages")
    yield chunk()


async def fail(_: ScriptedEngine, __: int) -> AsyncGenerator[Chunk, None]:
    raise EngineError("Out of memory.")
    yield chunk()


async def fail_once_in_the_middle(engine: ScriptedEngine, time_asked: int) -> AsyncGenerator[Chunk, None]:
    async for each in answer(engine, time_asked):
        yield each
        if time_asked == 1 and content_of(each) == ANSWER[1]:
            raise EngineError("Out of memory.")


async def hang(engine: ScriptedEngine, time_asked: int) -> AsyncGenerator[Chunk, None]:
    """Generates two words, then waits for the engine's `hold`."""
    async for each in answer(engine, time_asked):
        yield each
        if content_of(each) == ANSWER[1]:
            await engine.hold.wait()


async def think(engine: ScriptedEngine, time_asked: int) -> AsyncGenerator[Chunk, None]:
    """Generates nothing until the engine's `hold` is set."""
    await engine.hold.wait()
    async for each in answer(engine, time_asked):
        yield each


async def change_its_mind(_: ScriptedEngine, time_asked: int) -> AsyncGenerator[Chunk, None]:
    yield chunk(delta("yes" if time_asked == 1 else "no"))
    if time_asked == 1:
        raise EngineError("Out of memory.")
    yield chunk(delta(finish="stop"))


async def break_off(_: ScriptedEngine, __: int) -> AsyncGenerator[Chunk, None]:
    yield chunk(delta("one"))


async def crash(_: ScriptedEngine, __: int) -> AsyncGenerator[Chunk, None]:
    raise ZeroDivisionError
    yield chunk()


SCRIPTS: dict[str, Script] = {
    "answer": answer,
    "refuse": refuse,
    "fail": fail,
    "fail once in the middle": fail_once_in_the_middle,
    "hang": hang,
    "think": think,
    "change its mind": change_its_mind,
    "break off": break_off,
    "crash": crash,
}


class Watched:
    """A delivery that records whether it was acked or nacked."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.settled: list[str] = []

    @property
    def message(self) -> Message:
        return self._delivery.message

    async def ack(self) -> None:
        self.settled.append("ack")
        await self._delivery.ack()

    async def retry(self, after: float = 0.0) -> None:
        self.settled.append(f"retry after {after:g}")
        await self._delivery.retry(after)


class Bench:
    """A client that submits jobs, and a worker that runs one delivery after the other."""

    def __init__(self, backend: Backend, consumer: Consumer, engine: ScriptedEngine) -> None:
        self.backend = backend
        self.engine = engine
        self.place = WorkerContext(
            WORKER,
            backend,
            engine,
            lease_seconds=30.0,
            max_tries=3,
            retry_backoff=0.01,
            quarantine_after=2,
            failed_attempts=FailedAttempts(backend.registry, WORKER),
            throttle=Throttle(engine.concurrency),
        )
        self._consumer = consumer

    def with_place(self, **changes: Any) -> None:
        self.place = replace(self.place, **changes)

    async def submit(self, says: str, *, unary: bool = False, **wishes: Any) -> Job:
        """Submits a job. `request`, `message`: more fields of the request or of its message."""
        request = {"model": QUEUE.model, "messages": [{"role": "user", "content": says}], **wishes.pop("request", {})}
        body, envelope = orjson.dumps(request), wishes.pop("message", {})
        job = new_job(mode="unary" if unary else "stream", **wishes)
        await self.backend.store.create(job, body=body)
        await self.backend.queue.publish(message_for(job, body, **envelope))
        return job

    async def delivery(self) -> Watched:
        return Watched(await next_of(self._consumer))

    def execution(self, delivery: Delivery) -> Execution:
        return Execution(self.place, delivery)

    async def run(self) -> Watched:
        """Runs the next delivery until it is acked or nacked."""
        delivery = await self.delivery()
        await self.execution(delivery).run()
        return delivery

    async def run_until(self, status: JobStatus, job: Job) -> Job:
        while (record := await self.record(job)).status is not status:
            await self.run()
        return record

    @asynccontextmanager
    async def running(self, delivery: Delivery) -> AsyncGenerator[Execution]:
        """An execution of the hanging script that has sent its first words; ends with the block."""
        execution = self.execution(delivery)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(execution.run())
            await wait_until(lambda: self.has_said(delivery.message.job.id, ANSWER[1]), "the first words")
            yield execution

    async def has_said(self, job_id: str, word: str) -> bool:
        return word.encode() in await self.backend.log.read(job_id)

    async def record(self, job: Job) -> Job:
        return await record_of(self.backend, job.id)

    async def frames(self, job: Job) -> list[Any]:
        """Returns the decoded frames that a client has received."""
        log = await self.backend.log.read(job.id)
        return [decoded(frame) for frame in log.split(b"\n\n")[:-1]]

    async def waiting(self) -> int:
        return await count_waiting(self.backend, QUEUE)


def decoded(frame: bytes) -> Any:
    data = frame.removeprefix(b"data: ")
    return "[DONE]" if data == b"[DONE]" else orjson.loads(data)


def text_of(frames: Sequence[Any]) -> str:
    return "".join(content_of(each) for each in frames if each != "[DONE]" and "choices" in each)


def ended_with_nothing(status: JobStatus = JobStatus.CANCELLED) -> Ending:
    return Ending(status)


def a_worker(worker_id: str) -> WorkerInfo:
    now = time.time()
    return WorkerInfo(worker_id, ModelInfo(QUEUE.model, "scripted", now, seen_at=now), concurrency=4, started_at=now)


@asynccontextmanager
async def open_bench(**engine: Any) -> AsyncGenerator[Bench]:
    async with (
        open_embedded(None) as backend,
        backend.registry.join(a_worker(WORKER)),
        backend.queue.consume([QUEUE], prefetch=8) as consumer,
    ):
        yield Bench(backend, consumer, ScriptedEngine(**engine))
