"""A server of the test run: a process on this machine, or a container."""

import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from tests.support.wait_until import wait_until


class Server(Protocol):
    """A server. Start and stop may be repeated; its files outlive both."""

    def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def is_running(self) -> bool: ...
    def output(self) -> str: ...
    async def close(self) -> None: ...


class HostServer:
    """A server as a process group. Start it in the main thread, because it ends with the thread that started it."""

    def __init__(self, command: Sequence[str], directory: Path, env: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._directory = directory
        self._env = {**os.environ, **(env or {})}
        self._log = directory / f"{Path(command[0]).name}.output"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_ends_with_us(), *self._command],
                cwd=self._directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def stop(self) -> None:
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            await self._gone()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        self._signal(signal.SIGKILL)
        await self._gone()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def close(self) -> None:
        """Kills the server at the end of the run, because an orderly stop takes longer."""
        await self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running():
            os.killpg(self._process.pid, number)

    async def _gone(self) -> None:
        await wait_until(lambda: not self.is_running(), f"{self._command[0]} to end", within=60)


class ContainerServer:
    """A server as a container. `ports` maps ports on 127.0.0.1 to the container's."""

    def __init__(self, image: str, ports: Mapping[int, int], *arguments: str, options: Sequence[str] = ()) -> None:
        self._name = f"ignite-test-{os.getpid()}-{min(ports)}"
        published = [f"--publish=127.0.0.1:{ours}:{theirs}" for ours, theirs in ports.items()]
        self._create = ["create", f"--name={self._name}", *published, *options, image, *arguments]
        self._made = False
        self._paused = False

    def start(self) -> None:
        if not self._made:
            self._docker(*self._create)
            self._made = True
        self._docker("start", self._name)

    async def stop(self) -> None:
        self.resume()
        self._docker("stop", "--time=20", self._name)

    async def kill(self) -> None:
        self.resume()
        self._docker("kill", self._name)

    def pause(self) -> None:
        self._docker("pause", self._name)
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._docker("unpause", self._name)
        self._paused = False

    def is_running(self) -> bool:
        return self._made and self._docker("inspect", "--format={{.State.Running}}", self._name).strip() == "true"

    def output(self) -> str:
        return self._docker("logs", self._name)

    async def close(self) -> None:
        if self._made:
            self._docker("rm", "--force", "--volumes", self._name)

    def _docker(self, *arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


def free_ports(count: int) -> list[int]:
    """Returns free ports below the range that Linux assigns to clients. A client that reconnects while its server is
    down could otherwise be assigned the server's port and connect to itself. The port is chosen out of many, because it
    stays free until the server listens, and other processes may choose at the same time.
    """
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            candidate = random.SystemRandom().randrange(10_000, 32_000)
            each = held.enter_context(socket.socket())
            with suppress(OSError):
                each.bind(("127.0.0.1", candidate))
                found.append(candidate)
        return found


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ends_with_us() -> list[str]:
    """Returns a command prefix that ends a server when the test run is killed, if util-linux is installed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []
