"""Starts, watches and restarts a serving process (`vllm serve`, or any command), and uses its OpenAI API over HTTP."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from shared.aio import first
from shared.errors import EngineError
from shared.job import Api
from shared.ports import EngineState
from worker.engines.base import Answer, Chunk, Completion, ModelCard, Request
from worker.engines.managed.serving_process import ProcessEnded, ServingProcess
from worker.engines.openai.engine import OpenAIEngine, UpstreamOptions
from worker.engines.openai.http_client import Address

log = structlog.get_logger(__name__)

VLLM_COMMAND = "vllm serve {model} --uds {uds} --scheduling-policy priority"

LONGEST_DIRECTORY = 60
"""Characters of the directory of sockets. A socket's path may have 104 bytes on macOS and 108 on Linux."""

FIRST_PAUSE = 1.0
LAST_PAUSE = 60.0
"""Bounds of the pause before a restart, in seconds. The pause doubles with each restart."""

RAN_WELL = 60.0
"""Seconds. After a process has run for longer than this, the pause before a restart is FIRST_PAUSE again."""


@dataclass(frozen=True, slots=True)
class ManagedOptions:
    """`command` is a template with `{model}`, and `{port}` or `{uds}` for the address to listen on.

    Only the API key of `upstream.address` is used. `grace` is in seconds. `title` names the process in messages, by
    default its command.
    """

    model: str
    upstream: UpstreamOptions
    command: str = VLLM_COMMAND
    extra_args: tuple[str, ...] = ()
    grace: float = 20
    title: str | None = None


class ManagedEngine:
    """Runs one serving process at a time. When the process dies, its requests fail at once and it is started again."""

    def __init__(self, options: ManagedOptions, *, kind: str = "vllm") -> None:
        self._options = options
        self._kind = kind
        self._http = OpenAIEngine(options.upstream, kind=kind)
        self._directory: Path | None = None
        self._launches = count()
        self._process: ServingProcess | None = None
        self._watch: asyncio.Task[None] | None = None
        self._restarts = 0
        self._start_seconds: float | None = None

    @property
    def card(self) -> ModelCard:
        return self._http.card

    @property
    def cards(self) -> Sequence[ModelCard]:
        return self._http.cards

    async def cards_changed(self) -> None:
        await self._http.cards_changed()

    @property
    def state(self) -> EngineState:
        told = self._http.state or EngineState()
        return replace(told, restarts=self._restarts, start_seconds=self._start_seconds)

    @property
    def concurrency(self) -> int:
        return self._http.concurrency

    @property
    def continues_text(self) -> bool:
        return self._http.continues_text

    async def start(self) -> None:
        self._directory = directory_for_sockets()
        process = await self._launch()
        self._watch = asyncio.create_task(self._keep_running(process), name=f"{self._kind}-watch")

    def continues_from(self, request: Request, prefix: str, progress: bytes) -> bool:
        return self._http.continues_from(request, prefix, progress)

    def generate(self, request: Request, prefix: str = "", progress: bytes = b"") -> AsyncGenerator[Chunk, None]:
        return self._http.generate(request, prefix, progress)

    async def complete(self, request: Request) -> Completion:
        return await self._http.complete(request)

    async def call(self, api: Api, request: Request) -> Answer:
        return await self._http.call(api, request)

    async def wait_unhealthy(self) -> str:
        """Returns why the engine is unhealthy. Raises the error of the watching task if it has failed, because then
        the process would not be restarted.
        """
        if self._watch is None:
            return await self._http.wait_unhealthy()
        return await first(self._http.wait_unhealthy(), _unending(self._watch))

    async def wait_healthy(self) -> None:
        """Raises what ended the watch, as `wait_unhealthy` does."""
        if self._watch is None:
            await self._http.wait_healthy()
        else:
            await first(self._http.wait_healthy(), _unending(self._watch))

    async def close(self) -> None:
        # The watching task is stopped first: otherwise it would restart the process.
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        await self._http.close()
        await self._stop_process()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _keep_running(self, process: ServingProcess) -> None:
        """Raises EngineError when two starts in a row have failed in the same way: the third would, too."""
        pause = FIRST_PAUSE
        failed: EngineError | None = None
        while True:
            began = time.monotonic()
            end = failed or await self._end_of(process)
            await self._http.disconnect(end.message)
            await self._stop_process()
            if time.monotonic() - began > RAN_WELL:
                pause = FIRST_PAUSE
            log.warning("engine.process_ended", reason=str(end), next=f"starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
            self._restarts += 1
            try:
                process, failed = await self._launch(), None
                log.info("engine.process_restarted", restarts=self._restarts, seconds=self._start_seconds)
            except EngineError as error:
                if isinstance(failed, ProcessEnded) and failed.is_repeated_by(error):
                    raise EngineError(f"The engine cannot be started again. {error}") from error
                failed = error

    async def _launch(self) -> ServingProcess:
        """Starts the process and waits until it answers. Raises EngineError if it ends before, or never answers."""
        command, address = self._command()
        began = time.monotonic()
        process = self._process = await ServingProcess.start(self._kind, command, self._options.title)
        try:
            connected = await first(self._connected(process, address), _raised(process.wait()))
            self._start_seconds = round(time.monotonic() - began, 1)
            return connected
        except BaseException:
            await self._stop_process()
            raise

    async def _connected(self, process: ServingProcess, address: Address) -> ServingProcess:
        await self._http.connect(address)
        return process

    async def _end_of(self, process: ServingProcess) -> EngineError:
        return await first(process.wait(), self._hang())

    async def _hang(self) -> EngineError:
        """Returns an error when the process has not answered for the stall timeout."""
        silence = self._options.upstream.stall_timeout
        while True:
            await self._http.wait_unhealthy()
            try:
                async with asyncio.timeout(silence):
                    await self._http.wait_healthy()
            except TimeoutError:
                return EngineError(f"The serving process has not answered for {silence:g} seconds.")

    async def _stop_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop(self._options.grace)

    def _command(self) -> tuple[list[str], Address]:
        template, socket_path = self._options.command, f"{self._directory}/{next(self._launches)}.sock"
        values, url = {"{model}": self._options.model, "{uds}": socket_path}, f"unix:{socket_path}"
        if "{port}" in template:
            port = values["{port}"] = str(_free_port())
            url = f"http://127.0.0.1:{port}/v1"
        # Splits before it fills in values: a value with a space stays one argument.
        words = [_filled(word, values) for word in shlex.split(template)]
        return [*words, *self._options.extra_args], replace(self._options.upstream.address, url=url)


def directory_for_sockets() -> Path:
    """Creates a directory that only this user can enter, in /tmp if the usual temporary directory's path is too
    long.
    """
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="ignite-engine-", dir=usual if len(usual) <= LONGEST_DIRECTORY else "/tmp"))


def _filled(word: str, values: dict[str, str]) -> str:
    # Not str.format: arguments may be JSON, which has braces.
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _raised(end: Coroutine[Any, Any, EngineError]) -> Any:
    raise await end


async def _unending(task: asyncio.Task[None]) -> Any:
    """Raises the error of the task when it fails. Never returns: a cancelled task was stopped on purpose."""
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
    await asyncio.Event().wait()
