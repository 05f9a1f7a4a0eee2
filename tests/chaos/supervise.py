"""The processes of a campaign, their proxies, and the faults. Processes that end are started again at once."""

import asyncio
import math
import random
import re
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.ledger import KEYS, METRICS_KEY, Ledger, Struck
from tests.chaos.plan import Fault, Kind
from tests.chaos.wires import Pair, Servers, Wires
from tests.support.cluster import API_READY, WORKER_READY
from tests.support.pace import pause
from tests.support.run_process import RunningProcess, run_process
from tests.support.wait_until import wait_until

ROOT = Path(__file__).parents[2]
LEASE = 3
CONCURRENCY = 8
"""Slots per worker. All workers together have fewer slots than there are clients, so that tenants wait for each other.
"""
DRAIN = 5
SWEEP, NEVER = 15, 86400
"""Seconds between searches for orphans: short enough to happen within a campaign, too long to replace a redelivery.
Broken builds run without it, because the reconciler would repair the damage.
"""
TELLS_WHERE_IT_HANGS = {"PYTHONFAULTHANDLER": "1"}
"""Environment in which SIGABRT prints the stack of each thread."""

STARTS_WITHIN = 120.0
"""Seconds for the start: five processes and a new broker on two busy cores have taken more than 45."""

DRAINED_WITHIN = 30.0
"""Seconds for ending after SIGTERM: the drain, handing back, closing, and a busy machine."""

CRASH = r'"event": "(background\.died|tasks\.left|(?:request|execution|attempt)\.crashed|Exception in [^"\\]*)'

# A campaign takes workers down on purpose, again and again: no job may be given up for that.
NEVER_GIVE_UP = ("--max-tries", "1000", "--quarantine-after", "1000")


@dataclass
class Slot:
    """A position in which one process runs, and after its end the next."""

    kind: str
    number: int
    generation: int = 0
    process: RunningProcess | None = None
    url: str = ""
    worker_id: str = ""
    struck: bool = False
    stopped: bool = False
    leaving: bool = False
    past: list[RunningProcess] = field(default_factory=list[RunningProcess])

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}.{self.generation}"

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.returncode is None and not (self.stopped or self.leaving)


class Supervisor:
    def __init__(self, stack: AsyncExitStack, servers: Servers, wires: Wires, ledger: Ledger, build: str) -> None:
        self._stack = stack
        self.servers = servers
        self.wires = wires
        self._ledger = ledger
        self._build = build
        self.slots: list[Slot] = []
        self.outputs: dict[str, RunningProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._drains: set[asyncio.Task[None]] = set()

    async def start(self, apis: int, workers: int) -> None:
        self.slots = [Slot("api", at + 1) for at in range(apis)] + [Slot("worker", at + 1) for at in range(workers)]
        self._keepers = [asyncio.create_task(self._keep(slot), name=f"keeper {slot.name}") for slot in self.slots]
        await self.all_up()

    async def all_up(self) -> None:
        await wait_until(
            lambda: all(slot.up for slot in self.slots) or any(keeper.done() for keeper in self._keepers),
            "every process to be up",
            within=2 * STARTS_WITHIN,
            seen=lambda: [slot.name for slot in self.slots if not slot.up],
        )
        for keeper in self._keepers:
            if keeper.done():
                keeper.result()

    def of(self, kind: str) -> list[Slot]:
        return [slot for slot in self.slots if slot.kind == kind]

    def pick_api(self, chance: random.Random) -> tuple[str, str] | None:
        up = [slot for slot in self.of("api") if slot.up]
        slot = chance.choice(up) if up else None
        return slot and (slot.name, slot.url)

    # ── processes ──

    async def _keep(self, slot: Slot) -> None:
        while True:
            await self._launch(slot)
            process = slot.process
            assert process is not None
            await self._ended_or_leaving(slot, process)
            if not (slot.struck or slot.leaving):
                self._mishap(slot.name, process, "ended by itself")
            slot.process, slot.struck, slot.stopped, slot.leaving = None, False, False, False

    async def _ended_or_leaving(self, slot: Slot, process: RunningProcess) -> None:
        await wait_until(lambda: process.returncode is not None or slot.leaving, slot.name, within=math.inf)

    async def _launch(self, slot: Slot) -> None:
        """Starts a process, again if it ends during its start, for example because the broker is down."""
        while slot.process is None:
            slot.generation += 1
            started = run_process(*self._command(slot), cwd=ROOT, env=TELLS_WHERE_IT_HANGS)
            process = self.outputs[slot.name] = await self._stack.enter_async_context(started)
            try:
                ready = await process.wait_for(API_READY if slot.kind == "api" else WORKER_READY, STARTS_WITHIN)
            except AssertionError:
                await pause(0.2)
            except TimeoutError:
                self._ledger.mishaps.append(f"{slot.name} was not ready {STARTS_WITHIN:.0f} s after its start")
                process.send(signal.SIGABRT)
            else:
                self._note(slot, process, ready)

    def _note(self, slot: Slot, process: RunningProcess, ready: re.Match[str]) -> None:
        if slot.kind == "api":
            slot.url = ready[1]
        elif found := re.search(r"worker-[0-9a-f]{12}", process.output):
            slot.worker_id = found[0]
        slot.process = process

    def _command(self, slot: Slot) -> list[str]:
        module = ["-m", "tests.chaos.broken", self._build] if self._build else ["-m", "ignite"]
        own = self._api_options() if slot.kind == "api" else self._worker_options(slot.number)
        return [sys.executable, *module, slot.kind, *own, "--drain", str(DRAIN)]

    def _api_options(self) -> list[str]:
        urls = self._urls(self.wires.apis)
        keys = ",".join(f"{tenant}={key}" for key, tenant in KEYS.items())
        own = ("--api-keys", keys, "--metrics-key", METRICS_KEY)
        return [*urls, "--port", "0", *own, "--sweep", str(NEVER if self._build else SWEEP)]

    def _worker_options(self, number: int) -> list[str]:
        urls = self._urls(self.wires.workers[number])
        return [
            *urls,
            "--engine",
            "simulated",
            "--concurrency",
            str(CONCURRENCY),
            "--lease",
            str(LEASE),
            *NEVER_GIVE_UP,
        ]

    def _urls(self, wires: Pair) -> list[str]:
        servers = self.servers
        amqp_url = f"{servers.rabbitmq.url(servers.vhost, wires.amqp.port)}?heartbeat=2"
        return ["--amqp-url", amqp_url, "--redis-url", servers.redis.url(servers.database, wires.redis.port)]

    def _mishap(self, name: str, process: RunningProcess, what: str) -> None:
        last = process.output.strip().splitlines()[-1:] or ["nothing"]
        self._ledger.mishaps.append(f"{name} {what} with status {process.returncode}; it said last: {last[0][:300]}")

    # ── faults ──

    async def strike(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.WORKER_KILLED | Kind.WORKER_STOPPED | Kind.WORKER_DRAINED | Kind.WORKER_CUT_OFF | Kind.API_KILLED:
                await self._strike_process(fault)
            case Kind.WIRE_CUT | Kind.WIRE_REFUSED | Kind.WIRE_SILENT:
                await self._strike_wire(fault)
            case Kind.BROKER_RESTARTED:
                self._struck(fault.kind, "the broker")
                await self.servers.rabbitmq.restart()
            case Kind.STORE_KILLED:
                self._struck(fault.kind, "the store")
                await self.servers.redis.kill()
                await self.servers.redis.start()

    def _struck(self, kind: Kind, name: str, held: frozenset[str] = frozenset()) -> None:
        self._ledger.struck.append(Struck(kind, time.monotonic(), name, held))

    async def _strike_process(self, fault: Fault) -> None:
        slot = self._victim("api" if fault.kind is Kind.API_KILLED else "worker", fault.target)
        if slot is None or slot.process is None:
            self._ledger.skipped += 1
            return
        process, name = slot.process, slot.name
        held = await asyncio.to_thread(self._held_by, slot.worker_id) if slot.worker_id else frozenset[str]()
        if slot.process is not process or not slot.up:  # Something else has struck it meanwhile.
            self._ledger.skipped += 1
            return
        self._struck(fault.kind, name, held)
        match fault.kind:
            case Kind.WORKER_STOPPED:
                await self._stop_for(slot, process, fault.lasts)
            case Kind.WORKER_CUT_OFF:
                await self._cut_off_for(slot, fault.lasts)
            case Kind.WORKER_DRAINED:
                slot.leaving = True
                self._drains.add(asyncio.create_task(self._drain(name, process), name=f"drain {name}"))
            case _:
                slot.struck = True
                process.kill()

    def _victim(self, kind: str, target: int) -> Slot | None:
        up = [slot for slot in self.of(kind) if slot.up]
        return up[target % len(up)] if up else None

    def _held_by(self, worker_id: str) -> frozenset[str]:
        """Returns the jobs that a worker holds; empty if the store does not answer."""
        try:
            with self.servers.redis.client(self.servers.database) as client:
                records = list(client.scan_iter("ignite:{*}:job", count=1000))
                pipe = client.pipeline(transaction=False)
                for record in records:
                    pipe.hget(record, "owner")
                owners = pipe.execute()
        except Exception:
            return frozenset()
        owned = zip(records, owners, strict=True)
        return frozenset(re.sub(r".*\{|\}.*", "", record) for record, owner in owned if owner == worker_id)

    async def _stop_for(self, slot: Slot, process: RunningProcess, seconds: float) -> None:
        slot.stopped = True
        process.send(signal.SIGSTOP)
        await pause(seconds)
        if process.returncode is None:
            process.send(signal.SIGCONT)
        slot.stopped = False

    async def _cut_off_for(self, slot: Slot, seconds: float) -> None:
        """Silences a worker: its connections stay open, but nothing is forwarded."""
        wires = self.wires.workers[slot.number]
        for wire in (wires.amqp, wires.redis):
            wire.stall()
        await pause(seconds)
        for wire in (wires.amqp, wires.redis):
            await wire.resume()

    async def _drain(self, name: str, process: RunningProcess) -> None:
        """Drains with SIGTERM. A process that does not end in order is recorded as unexpected."""
        process.send(signal.SIGTERM)
        try:
            await wait_until(lambda: process.returncode is not None, name, DRAINED_WITHIN)
        except TimeoutError:
            self._ledger.mishaps.append(f"{name} had not ended {DRAINED_WITHIN:.0f} s after SIGTERM")
            return
        if process.returncode != 0:
            self._mishap(name, process, "was told to stop and ended")

    async def _strike_wire(self, fault: Fault) -> None:
        wires = list(self.wires.all().items())
        name, wire = wires[fault.target % len(wires)]
        self._struck(fault.kind, name)
        if fault.kind is Kind.WIRE_CUT:
            wire.cut()
            return
        if fault.kind is Kind.WIRE_REFUSED:
            wire.refuse()
        else:
            wire.stall()
        await pause(fault.lasts)
        await wire.resume()

    # ── the end ──

    async def drains_over(self) -> None:
        await asyncio.gather(*self._drains)

    async def stop(self) -> None:
        """Drains every process, and starts no more."""
        await self.drains_over()
        await self.abandon()
        running = [(slot.name, slot.process) for slot in self.slots if slot.process is not None]
        await asyncio.gather(*(self._drain(name, process) for name, process in running))
        self._ledger.mishaps += [
            f"{name} logged {event}" for name, process in self.outputs.items() for event in crashes_in(process.output)
        ]

    async def abandon(self) -> None:
        """Stops starting processes."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)


def crashes_in(output: str) -> list[str]:
    """Returns log lines of a process that no fault explains, each kind once."""
    return sorted(set(re.findall(CRASH, output)))
