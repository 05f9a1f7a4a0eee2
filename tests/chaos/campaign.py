"""One campaign: starts processes and load, injects the planned faults, stops the load, and inspects the result."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.chaos.aftermath import Aftermath, Inspector, allowances, measure
from tests.chaos.checker import check
from tests.chaos.ledger import Ledger
from tests.chaos.load import LONG_SIGNED_STREAMS, ONLY_JOBS, Appetite, Load
from tests.chaos.plan import EVERYTHING, ONLY_KILLS, ONLY_STOPS, Fault, Mix, make_plan
from tests.chaos.supervise import Supervisor
from tests.chaos.wires import Servers, open_wires
from tests.support.pace import pause
from tests.support.rabbitmq import find_rabbitmq, rabbitmq_in_docker, rabbitmq_on_this_machine
from tests.support.redis import find_redis, redis_in_docker, redis_on_this_machine


@dataclass(frozen=True)
class Options:
    """`patience`: seconds to wait at the end for each thing that must come true."""

    seed: int = 0
    seconds: float = 60.0
    apis: int = 2
    workers: int = 3
    build: str = ""
    patience: float = 60.0

    @property
    def appetite(self) -> Appetite:
        return DIRECTED[self.build][1] if self.build else Appetite()

    @property
    def plan(self) -> list[Fault]:
        return make_plan(self.seed, self.seconds, DIRECTED[self.build][0] if self.build else EVERYTHING)


# A broken build meets only what its missing safeguard is for.
DIRECTED: Mapping[str, tuple[Mix, Appetite]] = {
    "fencing-off": (ONLY_STOPS, LONG_SIGNED_STREAMS),
    "ack-first": (ONLY_KILLS, ONLY_JOBS),
}


@dataclass(frozen=True)
class Findings:
    options: Options
    ledger: Ledger
    aftermath: Aftermath
    violations: list[str]
    outputs: Mapping[str, str]
    seconds: float


async def run(options: Options, servers: Servers, say: Callable[[str], None]) -> Findings:
    began, ledger = time.monotonic(), Ledger()

    def stage(what: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {what}")

    async with AsyncExitStack() as stack:
        wires = await stack.enter_async_context(open_wires(servers, options.workers))
        supervisor = Supervisor(stack, servers, wires, ledger, options.build)
        stack.push_async_callback(supervisor.abandon)
        await supervisor.start(options.apis, options.workers)
        stage("every process is up")
        await warm_up(supervisor, ledger, options)
        allowed = allowances(supervisor, await measure(supervisor))
        stage("warm, the load begins")
        await disturb(options, supervisor, ledger)
        stage("every client has its end, or was given up")
        await supervisor.drains_over()
        await supervisor.all_up()
        stage("looking at what is left")
        aftermath = await Inspector(supervisor, ledger, options.patience).inspect(allowed)
        stage("every process is told to stop")
        await supervisor.stop()
        outputs = {name: process.output for name, process in supervisor.outputs.items()}
    violations = check(ledger, aftermath)
    return Findings(options, ledger, aftermath, violations, outputs, time.monotonic() - began)


async def warm_up(supervisor: Supervisor, ledger: Ledger, options: Options) -> None:
    """Makes calls of every kind, so that an idle process can be measured. A call that a broken build loses stays open,
    and the checker reports it.
    """
    async with calling() as session:
        with suppress(TimeoutError):
            async with asyncio.timeout(options.patience):
                await Load(ledger, supervisor, session, options.seed).one_of_each()
    await pause(1.0)


async def disturb(options: Options, supervisor: Supervisor, ledger: Ledger) -> None:
    """Runs load and faults concurrently, and then waits for open calls, for `patience` at most."""
    async with calling() as session, asyncio.TaskGroup() as faults:
        load = Load(ledger, supervisor, session, options.seed)
        clients = asyncio.create_task(load.run(options.appetite), name="load")
        began = time.monotonic()
        for fault in options.plan:
            faults.create_task(strike_in_time(supervisor, fault, began))
        try:
            await until(began + options.seconds, clients)
            load.stop()
            await asyncio.wait([clients], timeout=options.patience)
        finally:
            clients.cancel()
            with suppress(asyncio.CancelledError):
                await clients


async def until(moment: float, clients: asyncio.Task[None]) -> None:
    """Runs the plan, unless the clients fail earlier."""
    await asyncio.wait([clients], timeout=max(0.0, moment - time.monotonic()))
    if clients.done():
        clients.result()


async def strike_in_time(supervisor: Supervisor, fault: Fault, began: float) -> None:
    await pause(began + fault.at - time.monotonic())
    await supervisor.strike(fault)


@asynccontextmanager
async def calling() -> AsyncGenerator[aiohttp.ClientSession]:
    wire = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=wire, timeout=aiohttp.ClientTimeout(None)) as session:
        yield session


@asynccontextmanager
async def private_servers() -> AsyncGenerator[Servers]:
    """Starts the campaign's own servers, on this machine or in containers."""
    directory = Path(tempfile.mkdtemp(prefix="ignite-chaos-"))
    rabbitmq_files, redis_files = directory / "rabbitmq", directory / "redis"
    for each in (rabbitmq_files, redis_files):
        each.mkdir()
    launcher, redis_launcher = find_rabbitmq(), find_redis()
    rabbitmq = rabbitmq_on_this_machine(launcher, rabbitmq_files) if launcher else rabbitmq_in_docker(rabbitmq_files)
    redis = redis_on_this_machine(redis_launcher, redis_files) if redis_launcher else redis_in_docker()
    try:
        await asyncio.gather(rabbitmq.start(), redis.start())
        yield Servers(rabbitmq, redis, rabbitmq.create_vhost(), redis.fresh_database())
    finally:
        await asyncio.gather(rabbitmq.close(), redis.close())
        shutil.rmtree(directory, ignore_errors=True)
