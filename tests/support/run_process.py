"""A process under test. Its output is kept and shown when the test fails, and it always ends."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

from tests.support.fork_server import ForkedProcess, fork
from tests.support.wait_until import wait_until


class RunningProcess:
    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess, name: str) -> None:
        self._process = process
        self._name = name
        self._output = bytearray()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Standard output and standard error, in the order they came."""
        return self._output.decode(errors="replace")

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait_for(self, pattern: str, within: float = 60.0) -> re.Match[str]:
        """Waits for the pattern's first match in the output. Fails at once if the process ends without one."""
        await wait_until(
            lambda: re.search(pattern, self.output) or self._reading.done(),
            f"{self._name} to print {pattern!r}",
            within,
            seen=lambda: self.output,
        )
        found = re.search(pattern, self.output)
        assert found, f"{self._name} ended ({await self.wait()}) without printing {pattern!r}:\n{self.output}"
        return found

    def send(self, number: signal.Signals) -> None:
        """Sends SIGTERM to the process alone, as a supervisor does."""
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Sends SIGINT to the process group, as Ctrl-C on a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Sends SIGKILL to the process alone, so that its children must notice."""
        self._process.kill()

    async def wait(self, within: float = 60.0) -> int:
        """Waits for the exit status, which is negative after a signal."""
        await wait_until(lambda: self.returncode is not None, f"{self._name} to end", within, seen=lambda: self.output)
        assert self.returncode is not None
        return self.returncode

    async def stop(self, within: float = 60.0) -> int:
        if self.returncode is None:
            self.send(signal.SIGTERM)
        return await self.wait(within)

    async def expect_exit(self, status: int = 0, within: float = 60.0) -> str:
        """Waits for the end with this status, and returns the whole output."""
        ended = await self.wait(within)
        await self._read_to_the_end()
        assert ended == status, f"{self._name} ended with {ended}, not {status}:\n{self.output}"
        return self.output

    async def end(self) -> None:
        """Kills the process group, including children that the process left behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        await self._read_to_the_end()

    async def _read_to_the_end(self) -> None:
        """Reads the rest of the output, for a limited time: a grandchild in another group may keep the pipe open."""
        await asyncio.wait([self._reading], timeout=2)
        self._reading.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(65536):
            self._output += data


@asynccontextmanager
async def run_process(
    *command: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ready: str | None = None,
    within: float = 60.0,
) -> AsyncGenerator[RunningProcess]:
    """Starts the process and yields when `ready` (a regular expression) is in its output. `env` is added to the
    environment of this process, in which each process has a gRPC port of its own. Stdin is empty.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **OUR_ENVIRONMENT, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    async with _ended_at_last(RunningProcess(process, " ".join(command)), " ".join(command), ready, within) as running:
        yield running


OUR_ENVIRONMENT = {"IGNITE_GRPC_PORT": "0"}


@asynccontextmanager
async def _ended_at_last(
    running: RunningProcess, name: str, ready: str | None = None, within: float = 60.0
) -> AsyncGenerator[RunningProcess]:
    try:
        if ready is not None:
            await running.wait_for(ready, within)
        yield running
    except BaseException:
        await running.end()
        print(f"--- output of {name} ---\n{running.output}", file=sys.stderr)
        raise
    else:
        await running.end()


@asynccontextmanager
async def run_ignite(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    ready: str | None = None,
    within: float = 60.0,
    module: str = "ignite",
) -> AsyncGenerator[RunningProcess]:
    """As `run_process` of `python -m ignite`, without the time that its imports take."""
    name = " ".join((module, *arguments))
    with ExitStack() as stack:
        process = await fork(module, arguments, {**OUR_ENVIRONMENT, **(env or {})}, stack)
        async with _ended_at_last(RunningProcess(process, name), name, ready, within) as running:
            yield running
