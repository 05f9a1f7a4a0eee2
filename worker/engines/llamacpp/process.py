"""One GGUF model behind llama.cpp's own OpenAI server, as a process: the only file that touches the native library.

It listens on a Unix socket, which appears once the model is loaded. It ends itself when llama.cpp's loop hangs.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CANNOT_LOAD = 3
HANGS = 4

SILENCE = 0
"""llama.cpp calls every refused request an error, and the worker reports those itself."""
ERRORS = 1

PROMPT_STEP = 512
"""A step reads at most this many prompt tokens; between two steps a request can be stopped."""

WATCH_INTERVAL = 10.0
"""Seconds between two questions to llama.cpp's loop."""

RETRY_INTERVAL = 0.1
"""Seconds until a question that failed is asked again."""


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    _ignore_signals()
    try:
        server = load(options)
    except Exception:
        # It does not say why unless it may print, and then it would print for every refused request.
        with suppress(Exception):
            _loading(options.socket).unlink(missing_ok=True)
            load(options, verbosity=ERRORS)
        return CANNOT_LOAD
    _ignore_signals()  # llama.cpp's server has handled them in other versions.
    _loading(options.socket).rename(options.socket)
    while answers(options.socket, options.stall_timeout):
        time.sleep(min(WATCH_INTERVAL, options.stall_timeout))
    print(f"llama.cpp has not answered for {options.stall_timeout:g} seconds.", file=sys.stderr, flush=True)
    del server  # Not before: it serves as long as it is there.
    return HANGS


def _ignore_signals() -> None:
    """A supervisor may send its SIGTERM to all processes, and the worker still drains: only the worker ends us."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def load(options: argparse.Namespace, verbosity: int = SILENCE) -> Any:
    """The running server. Everything that it does happens in threads of its own."""
    import xllamacpp  # pyright: ignore[reportMissingTypeStubs]

    native: Any = xllamacpp
    params = native.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.model_id}
    params.hostnames = [str(_loading(options.socket))]
    params.n_parallel = options.slots
    params.n_ctx = options.slots * options.context_length
    params.n_batch = params.n_ubatch = PROMPT_STEP
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads or spare_cores()
    params.n_gpu_layers = options.gpu_layers
    params.use_jinja = True
    params.ui = False
    # A stream holds a thread, and so may a question about tokens for each stream that will follow.
    # They grow in number with the open calls, and end when there are fewer.
    params.n_threads_http = 1
    # Up to 8 GiB of saved prompts by default, which an operator would take for a leak.
    params.cache_ram_mib = 0
    params.verbosity = verbosity
    return native.Server(params)


def answers(path: Path, patience: float) -> bool:
    """Whether llama.cpp's loop answers within `patience` seconds. One failure says little: the machine may be busy."""
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0:
        if _answers_once(path, left):
            return True
        time.sleep(min(RETRY_INTERVAL, left))
    return False


def _answers_once(path: Path, patience: float) -> bool:
    """Adapters are listed by the loop, between two steps; models, slots and health by the HTTP threads alone."""
    connection = http.client.HTTPConnection("localhost")
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(patience)
        connection.sock.connect(str(path))
        connection.request("GET", "/lora-adapters")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return True
    finally:
        connection.close()


def spare_cores() -> int:
    """All but one: llama.cpp's threads wait for each other in a spin, and one that lost its core stops them all."""
    return max(1, len(os.sched_getaffinity(0)) - 1 if sys.platform == "linux" else (os.cpu_count() or 2) - 1)


def _loading(path: Path) -> Path:
    """Where the server listens while it loads. It answers already, but only that it is not ready."""
    return path.with_name(f"loading-{path.name}")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context-length", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--gpu-layers", type=int, default=-1)
    parser.add_argument("--stall-timeout", type=float, default=300)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    # Without destructors: those of llama.cpp wait for its threads, which may hang.
    os._exit(main(sys.argv[1:]))
