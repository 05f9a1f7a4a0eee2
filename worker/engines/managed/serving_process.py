"""A serving process in its own process group. It ends when it is stopped, and when this worker dies."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from shared.errors import EngineError
from worker.engines.managed import guardian
from worker.engines.managed.output import Output

OUTPUT_TIMEOUT = 1.0
"""Seconds to wait for the rest of the output of a process that has ended."""

KILLED = 128
"""Statuses above are the shell's words for a signal."""


class ProcessEnded(EngineError):
    """The process has ended. `status`: its exit status; `said`: its last words, without numbers."""

    def __init__(self, detail: str, status: int, said: str = "") -> None:
        super().__init__("The engine's process has ended.", detail=detail)
        self.status = status
        self.said = re.sub(r"0x[0-9a-f]+|\d+", "#", said)

    def is_repeated_by(self, other: EngineError) -> bool:
        """Whether `other` is the same end, of a process that ended by itself: it would come to it again and again."""
        if not isinstance(other, ProcessEnded) or self.status > KILLED:
            return False
        return (self.status, self.said) == (other.status, other.said)


class ServingProcess:
    """A command that runs under `guardian.py`. Its end kills the whole process group, because child processes of
    engines may keep the GPU's memory.
    """

    def __init__(self, process: asyncio.subprocess.Process, title: str, output: Output) -> None:
        self._process = process
        self._title = title
        self._output = output
        assert process.stdout is not None
        self._reading = asyncio.create_task(output.read(process.stdout), name="engine-output")

    @classmethod
    async def start(cls, name: str, command: Sequence[str], title: str | None = None) -> ServingProcess:
        """Starts the command. `name` is what the log events of its output call it; `title` names it in messages."""
        # Nothing is written to the pipe: it closes when this process dies, and the guardian notices that.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            guardian.__file__,
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=environment(),
        )
        return cls(process, title or f"`{shown(command)}`", Output(name))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> ProcessEnded:
        """Waits for the process's end, and returns the error to report."""
        status = await self._process.wait()
        self._signal(signal.SIGKILL)
        await self._read_to_end()
        if status == guardian.NOT_STARTED:
            detail = f"{self._title} could not be started: check that its first word is a program on the PATH"
            return ProcessEnded(detail, status)
        said = self._output.last_words
        words = f": {said}" if said and status else ""
        return ProcessEnded(f"{self._title} has ended with status {status}{words}", status, said)

    async def _read_to_end(self) -> None:
        """A process outside the group may hold the pipe open: its output is not waited for."""
        await asyncio.wait({self._reading}, timeout=OUTPUT_TIMEOUT)
        self._reading.cancel()

    async def stop(self, grace: float) -> None:
        """Sends SIGTERM to the group, and SIGKILL after `grace` seconds."""
        try:
            self._signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        finally:
            self._signal(signal.SIGKILL)
            await self._process.wait()
            await self._read_to_end()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


IGNITE_PREFIX = "IGNITE_"


def environment() -> dict[str, str]:
    """Returns the environment of an engine: without Ignite's settings, because they contain passwords and keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith(IGNITE_PREFIX)}


def shown(command: Sequence[str]) -> str:
    """Returns the command for messages, without secret values."""
    secrets = guardian.secrets_in(command)
    return shlex.join(guardian.without_secrets(word, secrets) for word in command)
