"""A serving process in a group of its own, which ends when it is told to, and when we are gone."""

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
    """A command under its guardian. Every end takes the whole group: engines leave children that hold the GPU."""

    def __init__(self, process: asyncio.subprocess.Process, title: str) -> None:
        self._process = process
        self._title = title

    @classmethod
    async def start(cls, name: str, command: Sequence[str], title: str | None = None) -> ServingProcess:
        """`name` stands before each line that it prints; `title` is what messages call it."""
        # The pipe to its standard input is never written to: its end tells the guardian of ours.
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
        """What its end means."""
        status = await self._process.wait()
        self._signal(signal.SIGKILL)
        if status == guardian.NOT_STARTED:
            detail = f"{self._title} could not be started: see that its first word is on the PATH"
        else:
            detail = f"{self._title} has ended with status {status}"
        return EngineError("The engine's process has ended.", detail=detail)

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL for whatever is left after `grace` seconds."""
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


OURS = "IGNITE_"


def environment() -> dict[str, str]:
    """For an engine: without Ignite's settings, which hold passwords and keys that no engine needs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def shown(command: Sequence[str]) -> str:
    """For messages: without the values of secrets."""
    secrets = guardian.secrets_in(command)
    return shlex.join(guardian.without_secrets(word, secrets) for word in command)
