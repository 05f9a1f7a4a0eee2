"""A serving process in its own process group. It ends when it is stopped, and when this worker dies."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from shared.errors import EngineError
from worker.engines.managed import guardian


class ServingProcess:
    """A command that runs under `guardian.py`. Its end kills the whole process group, because child processes of
    engines may keep the GPU's memory.
    """

    def __init__(self, process: asyncio.subprocess.Process, title: str) -> None:
        self._process = process
        self._title = title

    @classmethod
    async def start(cls, name: str, command: Sequence[str], title: str | None = None) -> ServingProcess:
        """Starts the command. `name` is the prefix of each line that it prints; `title` names it in messages."""
        # Nothing is written to the pipe: it closes when this process dies, and the guardian notices that.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            guardian.__file__,
            name,
            *command,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=environment(),
        )
        return cls(process, title or f"`{shown(command)}`")

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> EngineError:
        """Waits for the process's end, and returns the error to report."""
        status = await self._process.wait()
        self._signal(signal.SIGKILL)
        if status == guardian.NOT_STARTED:
            detail = f"{self._title} could not be started: check that its first word is a program on the PATH"
        else:
            detail = f"{self._title} has ended with status {status}"
        return EngineError("The engine's process has ended.", detail=detail)

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
