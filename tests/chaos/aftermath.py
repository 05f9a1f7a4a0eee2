"""The state after a campaign: what the APIs answer for every job, what is left in the servers, and
what processes hold.
"""

import asyncio
import json
import os
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.chaos.ledger import KEYS, METRICS_KEY, TAG, Ledger, signed_with
from tests.chaos.load import OVER
from tests.chaos.supervise import Slot, Supervisor
from tests.support.pace import pause
from tests.support.wait_until import wait_until

AT_ONCE = 16
OF_A_LIVING_JOB = ("owner", "lease", "cancel", "followers")
"""Fields of a record that are removed when the job ends."""


@dataclass(frozen=True)
class Count:
    """A number that must not grow: open files of a process, or connections."""

    what: str
    allowed: int
    found: int


@dataclass
class JobState:
    """The findings about one job: status and result from each API, and its events from the start."""

    tag: str = ""
    statuses: list[str] = field(default_factory=list[str])
    results: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    events: bytes = b""
    leftovers: list[str] = field(default_factory=list[str])


@dataclass
class Aftermath:
    jobs: dict[str, JobState] = field(default_factory=dict[str, JobState])
    listed: dict[str, str] = field(default_factory=dict[str, str])
    """Returns every id that GET /v1/jobs lists, with the tag of its call."""

    messages: list[str] = field(default_factory=list[str])
    """Returns one sentence for each queue that is not empty."""

    lasting_keys: list[str] = field(default_factory=list[str])
    counts: list[Count] = field(default_factory=list[Count])


Allowed = dict[str, int]
FILES_SLACK, TASKS_SLACK, CONNECTIONS_SLACK = 10, 5, 2
TASKS, OPEN_CALLS = "tasks", "open calls"
GAUGE = re.compile(r"^(ignite_asyncio_tasks|ignite_open_calls)(?:\{.*\})? (\S+)$", re.MULTILINE)


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def gauges_of(slot: Slot) -> dict[str, int]:
    """Reads the metrics of an API."""
    key = {"authorization": f"Bearer {METRICS_KEY}"}
    async with aiohttp.ClientSession(headers=key) as session, session.get(f"{slot.url}/metrics") as response:
        told = GAUGE.findall(await response.text())
    return {
        TASKS: sum(int(float(value)) for name, value in told if name == "ignite_asyncio_tasks"),
        OPEN_CALLS: sum(int(float(value)) for name, value in told if name == "ignite_open_calls"),
    }


async def measure(supervisor: Supervisor) -> dict[str, int]:
    """Counts open files by kind of process, the tasks of APIs (the most), and connections by proxy."""
    found: dict[str, int] = {OPEN_CALLS: 0}
    for slot in supervisor.slots:
        if slot.up and slot.process is not None:
            found[slot.kind] = max(found.get(slot.kind, 0), files_of(slot.process.pid))
            if slot.kind == "api":
                found[TASKS] = max(found.get(TASKS, 0), (await gauges_of(slot))[TASKS])
    return found | {name: wire.open_connections for name, wire in supervisor.wires.all().items()}


def allowances(supervisor: Supervisor, idle: dict[str, int]) -> Allowed:
    slack = {slot.kind: FILES_SLACK for slot in supervisor.slots} | {TASKS: TASKS_SLACK, OPEN_CALLS: 0}
    return {name: found + slack.get(name, CONNECTIONS_SLACK * len(supervisor.slots)) for name, found in idle.items()}


class Inspector:
    def __init__(self, supervisor: Supervisor, ledger: Ledger, patience: float) -> None:
        """`patience`: seconds to wait for each thing that must come true."""
        self._supervisor = supervisor
        self._ledger = ledger
        self._patience = patience
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._keys = {call.job_id: call.key for call in ledger.calls if call.job_id}
        self.aftermath = Aftermath()

    async def inspect(self, allowed: Allowed) -> Aftermath:
        found = self.aftermath
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await self._until_all_over(session)
            ids = found.listed.keys() | {call.job_id for call in self._ledger.calls if call.accepted and call.job_id}
            found.jobs = {job_id: JobState(found.listed.get(job_id, "")) for job_id in ids}
            await asyncio.gather(*(self._look_at(session, job_id, state) for job_id, state in found.jobs.items()))
        await self._patiently(self._settled)
        found.messages = await self._waiting_messages()
        found.lasting_keys = await asyncio.to_thread(self._lasting_keys)
        await self._patiently(lambda: self._within(allowed))
        found.counts = await self._counts(allowed)
        await asyncio.to_thread(self._read_records)
        return found

    async def _patiently(self, condition: Callable[[], Any]) -> None:
        """Waits for a condition. If it does not come true in time, the checker reports the violation."""
        try:
            await wait_until(condition, within=self._patience)
        except TimeoutError:
            return

    # ── jobs ──

    async def _until_all_over(self, session: aiohttp.ClientSession) -> None:
        async def all_over() -> bool:
            statuses = {job: found for key in KEYS for job, found in (await self._list(session, key)).items()}
            self.aftermath.listed = {job_id: tag for job_id, (_, tag) in statuses.items()}
            over = all(status in OVER for status, _ in statuses.values())
            if not over:
                await pause(0.5)
            return over

        await self._patiently(all_over)

    async def _list(self, session: aiohttp.ClientSession, key: str) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        after: dict[str, str] = {}
        while True:
            status, data = await self._get(session, "/v1/jobs", 0, key, limit="100", **after)
            assert status == 200, data
            page = data.json()
            found |= {job["id"]: (job["status"], job["metadata"].get(TAG, "")) for job in page["data"]}
            self._keys |= {job["id"]: key for job in page["data"]}
            if not page["has_more"]:
                return found
            after = {"after": page["last_id"]}

    async def _look_at(self, session: aiohttp.ClientSession, job_id: str, state: JobState) -> None:
        """Reads a job from every API; its events only if it is over."""
        path, key = f"/v1/jobs/{job_id}", self._keys[job_id]
        async with self._turns:
            for api in range(len(self._supervisor.of("api"))):
                status, data = await self._get(session, path, api, key)
                state.statuses.append(str(data.json()["status"]) if status == 200 else f"HTTP {status}")
                status, data = await self._get(session, f"{path}/result", api, key)
                state.results.append((status, data.data))
            if state.statuses[0] in OVER:
                _, data = await self._get(session, f"{path}/events", random.randrange(8), key)
                state.events = data.data

    async def _get(
        self, session: aiohttp.ClientSession, path: str, api: int, key: str, **params: str
    ) -> tuple[int, "Body"]:
        apis = self._supervisor.of("api")
        url = apis[api % len(apis)].url
        patience = aiohttp.ClientTimeout(30)
        async with session.get(url + path, params=params, headers=signed_with(key), timeout=patience) as response:
            return response.status, Body(await response.read())

    # ── servers and processes ──

    async def _settled(self) -> bool:
        return not await self._waiting_messages()

    async def _waiting_messages(self) -> list[str]:
        servers = self._supervisor.servers
        queues = await asyncio.to_thread(servers.rabbitmq.queues, servers.vhost)
        return [
            f"{queue.name} holds {queue.messages_ready} ready and {queue.messages_unacknowledged} unacknowledged"
            for queue in queues
            if (queue.messages_ready, queue.messages_unacknowledged) != (0, 0)
        ]

    def _lasting_keys(self) -> list[str]:
        servers = self._supervisor.servers
        return servers.redis.keys_without_expiry(servers.database)

    def _read_records(self) -> None:
        servers = self._supervisor.servers
        with servers.redis.client(servers.database) as client:
            for job_id, state in self.aftermath.jobs.items():
                fields = client.hmget(f"ignite:{{{job_id}}}:job", *OF_A_LIVING_JOB)
                named = zip(OF_A_LIVING_JOB, fields, strict=True)
                state.leftovers = [f"{name}={value}" for name, value in named if value is not None]

    async def _within(self, allowed: Allowed) -> bool:
        return all(count.found <= count.allowed for count in await self._counts(allowed))

    async def _counts(self, allowed: Allowed) -> list[Count]:
        counts = [Count(f"connections {name}", allowed[name], wire.open_connections) for name, wire in self._wires()]
        for slot in self._supervisor.slots:
            if slot.up and slot.process is not None:
                counts.append(Count(f"open files of {slot.name}", allowed[slot.kind], files_of(slot.process.pid)))
                if slot.kind == "api":
                    told = await gauges_of(slot)
                    counts += [Count(f"{what} of {slot.name}", allowed[what], told[what]) for what in told]
        return counts

    def _wires(self) -> Iterable[tuple[str, Any]]:
        return self._supervisor.wires.all().items()


class Body:
    """The bytes of an answer."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def json(self) -> Any:
        return json.loads(self.data)
