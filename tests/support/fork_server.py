"""Starts processes by a fork of one that has imported everything: importing takes longer than most tests of them.

`python -m tests.support.fork_server SOCKET` is the server. A client sends what to run with the pipe for its output, and
reads two lines: the process's id, and its exit status when it has ended.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

MODULE = "tests.support.fork_server"
EVERYTHING = (
    "ignite.cli",
    "ignite.up",
    "ignite.api_process",
    "ignite.worker_process",
    "producer.rpc.server",
    "shared.backends.distributed",
    "shared.backends.embedded.backend",
    "worker.engines.openai.engine",
    "worker.engines.simulated",
    "uvicorn.lifespan.on",
)
MOST = 2**18
"""Bytes of one order: the environment is in it."""


# ── the client ──


class ForkedProcess:
    """As far as the tests use it, an `asyncio.subprocess.Process`."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader, ended: asyncio.Task[int]) -> None:
        self.pid = pid
        self.stdout = stdout
        self._ended = ended

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)


async def fork(module: str, arguments: Sequence[str], env: Mapping[str, str], stack: ExitStack) -> ForkedProcess:
    """Runs `python -m module`, as the leader of its own session. `stack` closes what belongs to the process here.

    Descriptors are closed by the transports alone: uvloop closes by number, which may be another's by then.
    """
    reading, writing = os.pipe()
    wire = socket.socket(socket.AF_UNIX)
    with os.fdopen(writing, "wb"):
        wire.connect(_address())
        order = json.dumps({"module": module, "arguments": arguments, "env": {**os.environ, **env}, "cwd": os.getcwd()})
        socket.send_fds(wire, [order.encode() + b"\n"], [writing])
    wire.setblocking(False)
    told, writer = await asyncio.open_unix_connection(sock=wire)
    stack.callback(writer.close)
    stdout = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    output = os.fdopen(reading, "rb")
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), output)
    stack.callback(transport.close)
    pid = int(await told.readline())
    return ForkedProcess(pid, stdout, asyncio.create_task(_status(told)))


async def _status(told: asyncio.StreamReader) -> int:
    return int(await told.readline())


@functools.cache
def _address() -> str:
    """The server is started by the first who asks, and ends with this process."""
    path = Path(tempfile.mkdtemp(prefix="fork-")) / "socket"
    command = (sys.executable, "-u", "-m", MODULE, str(path))
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdout is not None
    assert server.stdout.readline(), "the fork server has not started"
    atexit.register(server.communicate)  # Closes its standard input, and waits for its end.
    return str(path)


# ── the server ──


class Server:
    """Forks for each order, until standard input ends."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._selector = selectors.DefaultSelector()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen(64)
        self._clients = dict[int, tuple[int, socket.socket]]()
        """Each process's id and client, by the descriptor that tells of its end."""
        self._selector.register(0, selectors.EVENT_READ)
        self._selector.register(self._listening, selectors.EVENT_READ)

    def serve(self) -> str:
        """Returns in a forked process, with the module that it is to run."""
        print("ready")
        while True:
            for key, _ in self._selector.select():
                if key.fd == 0:
                    self._path.unlink()
                    self._path.parent.rmdir()
                    os._exit(0)
                if key.fd in self._clients:
                    self._report(key.fd)
                elif (module := self._fork()) is not None:
                    return module

    def _fork(self) -> str | None:
        client, _ = self._listening.accept()
        order, output = receive(client)
        pid = os.fork()
        if pid == 0:
            self._close()
            client.close()
            become(order, output)
            return order["module"]
        os.close(output)
        with suppress(OSError):
            client.sendall(f"{pid}\n".encode())
        ended = os.pidfd_open(pid)
        self._clients[ended] = (pid, client)
        self._selector.register(ended, selectors.EVENT_READ)
        return None

    def _report(self, ended: int) -> None:
        pid, client = self._clients.pop(ended)
        self._selector.unregister(ended)
        os.close(ended)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError), client:
            client.sendall(f"{status}\n".encode())

    def _close(self) -> None:
        self._selector.close()
        self._listening.close()
        for ended, (_, client) in self._clients.items():
            os.close(ended)
            client.close()


def receive(client: socket.socket) -> tuple[dict[str, Any], int]:
    data, descriptors, _, _ = socket.recv_fds(client, MOST, 1)
    while not data.endswith(b"\n"):
        data += client.recv(MOST)
    return json.loads(data), descriptors[0]


def become(order: dict[str, Any], output: int) -> None:
    """What exec would have given this process."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(cast(dict[str, str], order["env"]))
    sys.argv = ["ignite", *order["arguments"]]


def import_everything() -> None:
    """What `ignite api`, `ignite worker` and `ignite up` import before they are ready."""
    for name in EVERYTHING:
        importlib.import_module(name)


if __name__ == "__main__":
    import_everything()
    runpy.run_module(Server(sys.argv[1]).serve(), run_name="__main__", alter_sys=True)
