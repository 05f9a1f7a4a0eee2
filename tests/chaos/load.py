"""Clients, each of which makes one call after another and records everything in the ledger."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from tests.chaos.ledger import DONE, STREAMED, TAG, Answer, Call, End, Ledger, SignedPrompt, Use, signed_with
from tests.support.pace import pause

OVER = frozenset({"completed", "failed", "cancelled", "expired"})
AGAIN = 0.2
"""Seconds after which a client that could not connect tries the next API."""

Until = Callable[[Answer], bool]


class Apis(Protocol):
    def pick_api(self, chance: random.Random) -> tuple[str, str] | None:
        """Returns name and URL of a running API."""
        ...


@dataclass(frozen=True)
class Appetite:
    """The mix of calls. `itl` in milliseconds."""

    clients: int = 36
    tokens: tuple[int, int] = (20, 80)
    itl: tuple[int, int] = (10, 40)
    constrained: float = 0.35
    uses: Mapping[Use, float] = field(
        default_factory=lambda: {
            Use.STREAM: 50,
            Use.UNARY: 15,
            Use.BACKGROUND: 15,
            Use.CANCELLED_JOB: 4,
            Use.CANCELLED_STREAM: 4,
            Use.LEFT_STREAM: 6,
            Use.LEFT_UNARY: 3,
        }
    )

    def prompt(self, chance: random.Random, use: Use) -> SignedPrompt:
        constrained = chance.random() < self.constrained
        return SignedPrompt(
            seed=chance.randrange(1000),
            tokens=chance.randint(*self.tokens),
            itl=chance.randint(*self.itl),
            constrained=constrained,
            signed=use in STREAMED and not constrained,
        )


LONG_SIGNED_STREAMS = Appetite(clients=12, tokens=(400, 500), itl=(20, 30), constrained=0.0, uses={Use.STREAM: 1})

ONLY_JOBS = Appetite(uses={Use.BACKGROUND: 1})


class Load:
    def __init__(self, ledger: Ledger, apis: Apis, session: aiohttp.ClientSession, seed: int) -> None:
        self._ledger = ledger
        self._apis = apis
        self._session = session
        self._seed = seed
        self._stopped = False
        self._acts: Mapping[Use, Callable[[Call, random.Random], Awaitable[None]]] = {
            Use.STREAM: self._stream,
            Use.UNARY: self._unary,
            Use.BACKGROUND: self._background,
            Use.CANCELLED_JOB: self._cancelled_job,
            Use.CANCELLED_STREAM: self._cancelled_stream,
            Use.LEFT_STREAM: self._left_stream,
            Use.LEFT_UNARY: self._left_unary,
        }

    def stop(self) -> None:
        """Stops new calls; open calls go on."""
        self._stopped = True

    async def run(self, appetite: Appetite) -> None:
        """Makes calls until stopped."""
        async with asyncio.TaskGroup() as group:
            for number in range(appetite.clients):
                group.create_task(self._client(number, appetite))

    async def one_of_each(self) -> None:
        chance = random.Random("warm-up")
        acts = [self._make(Use(use), SignedPrompt(tokens=5, itl=5), chance) for use in self._acts for _ in range(3)]
        await asyncio.gather(*acts)

    async def _client(self, number: int, appetite: Appetite) -> None:
        chance = random.Random(f"client {self._seed} {number}")
        await pause(number * 0.02)
        while not self._stopped:
            use = chance.choices(list(appetite.uses), list(appetite.uses.values()))[0]
            call = await self._make(use, appetite.prompt(chance, use), chance)
            if call.refused:
                await pause(min(2.0, float(call.first.retry_after or 1)))
            elif not call.accepted:
                await pause(AGAIN)

    async def _make(self, use: Use, prompt: SignedPrompt, chance: random.Random) -> Call:
        call = self._ledger.begin(use, prompt)
        await self._acts[use](call, chance)
        return call

    # ── what clients do ──

    async def _stream(self, call: Call, chance: random.Random) -> None:
        answer = await self._submit(call, chance, stream=True)
        if answer.status == 200:
            await self._resume(call, answer, chance)

    async def _resume(self, call: Call, answer: Answer, chance: random.Random) -> None:
        """Resumes a cut stream from another API, after the last received frame."""
        while answer.end is End.CUT or answer.status == 503:
            if call.frames and call.frames[-1].data == DONE:
                return
            if answer.status != 200:
                await pause(AGAIN)
            after = {"starting_after": len(call.frames) - 1}
            answer = await self._ask(call, call.answers, chance, "GET", f"{job_path(call)}/events", params=after)

    async def _unary(self, call: Call, chance: random.Random) -> None:
        await self._submit(call, chance)

    async def _background(self, call: Call, chance: random.Random) -> None:
        await self._submit(call, chance, background=True)
        if call.accepted:
            await self._poll(call, chance)

    async def _poll(self, call: Call, chance: random.Random) -> None:
        while True:
            answer = await self._ask(call, call.polls, chance, "GET", job_path(call), params={"wait": 10})
            if answer.status == 200 and answer.end is End.WHOLE:
                if answer.json()["status"] in OVER:
                    return
            elif answer.status not in (0, 200, 503):
                return
            else:
                await pause(AGAIN)

    async def _cancelled_job(self, call: Call, chance: random.Random) -> None:
        await self._submit(call, chance, background=True)
        if call.accepted:
            await pause(chance.uniform(0, 1.5))
            await self._cancel(call, chance)
            await self._poll(call, chance)

    async def _cancelled_stream(self, call: Call, chance: random.Random) -> None:
        after = chance.randint(1, 15)
        reading = asyncio.create_task(self._stream(call, chance))
        try:
            while not reading.done() and len(call.frames) < after:
                await asyncio.wait([reading], timeout=0.05)
            if call.job_id:
                await self._cancel(call, chance)
            await reading
        finally:
            reading.cancel()

    async def _cancel(self, call: Call, chance: random.Random) -> None:
        said: list[Answer] = []
        call.cancel = await self._ask(call, said, chance, "POST", f"{job_path(call)}/cancel")

    async def _left_stream(self, call: Call, chance: random.Random) -> None:
        enough = chance.randint(1, 15)
        await self._submit(call, chance, until=lambda answer: len(answer.frames) >= enough, stream=True)

    async def _left_unary(self, call: Call, chance: random.Random) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.uniform(0.05, 0.5)):
                await self._submit(call, chance)
        for answer in call.answers:
            if answer.end is End.OPEN:
                answer.end = End.LEFT

    # ── the wire ──

    async def _submit(self, call: Call, chance: random.Random, until: Until | None = None, **more: Any) -> Answer:
        body = call.prompt.body(metadata={TAG: call.tag}, **more)
        return await self._ask(call, call.answers, chance, "POST", "/v1/chat/completions", until, json=body)

    async def _ask(
        self,
        call: Call,
        into: list[Answer],
        chance: random.Random,
        method: str,
        path: str,
        until: Until | None = None,
        **what: Any,
    ) -> Answer:
        name, url = await self._some_api(chance)
        answer = Answer(name, path)
        into.append(answer)
        try:
            async with self._session.request(method, url + path, headers=signed_with(call.key), **what) as response:
                await self._read(response, answer, until)
        except (aiohttp.ClientError, OSError) as error:
            answer.end, answer.error = End.CUT, repr(error)
        answer.ended = asyncio.get_running_loop().time()
        return answer

    async def _read(self, response: aiohttp.ClientResponse, answer: Answer, until: Until | None) -> None:
        answer.status = response.status
        answer.retry_after = response.headers.get("retry-after", "")
        answer.job_id = response.headers.get("x-job-id", "")
        now = asyncio.get_running_loop().time
        async for data in response.content.iter_any():
            answer.pieces.append((now(), data))
            if until is not None and until(answer):
                answer.end = End.LEFT
                response.close()
                return
        answer.end = End.WHOLE

    async def _some_api(self, chance: random.Random) -> tuple[str, str]:
        while (api := self._apis.pick_api(chance)) is None:
            await pause(AGAIN)
        return api


def job_path(call: Call) -> str:
    return f"/v1/jobs/{call.job_id}"
