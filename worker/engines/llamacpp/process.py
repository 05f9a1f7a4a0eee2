"""A program that serves one GGUF model with llama.cpp's own OpenAI server. Only this file uses the native library.

It listens on a Unix socket, which exists once the model is loaded. It exits when llama.cpp's loop hangs.
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
"""Log nothing: llama.cpp logs every refused request as an error, and the worker reports refused requests."""
ERRORS = 1

PROMPT_STEP = 512
"""Prompt tokens that one step reads at most. A request can be stopped between two steps."""

WATCH_INTERVAL = 10.0
"""Seconds between two probes of llama.cpp's loop."""

RETRY_INTERVAL = 0.1
"""Seconds after which a failed probe is repeated."""


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    _ignore_signals()
    try:
        server = load(options)
    except Exception:
        # Loads again with error messages, to print the reason. They are off otherwise (see SILENCE).
        with suppress(Exception):
            _loading(options.socket).unlink(missing_ok=True)
            load(options, verbosity=ERRORS)
        return CANNOT_LOAD
    _ignore_signals()  # Some versions of llama.cpp's server install their own handlers.
    _loading(options.socket).rename(options.socket)
    while answers(options.socket, options.stall_timeout):
        time.sleep(min(WATCH_INTERVAL, options.stall_timeout))
    print(f"llama.cpp has not answered for {options.stall_timeout:g} seconds.", file=sys.stderr, flush=True)
    del server  # Not earlier: the server runs as long as this object exists.
    return HANGS


def _ignore_signals() -> None:
    """Ignores SIGTERM and SIGINT: a supervisor may send them to all processes while the worker drains. Only the worker
    ends this process.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def load(options: argparse.Namespace, verbosity: int = SILENCE) -> Any:
    """Loads the model and returns the running server, which works in its own threads."""
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
    if options.pooling:
        # Chat goes on as without it: the server asks for the states of embeddings' tokens only.
        params.embedding = True
        params.pooling_type = native.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.use_jinja = True
    params.ui = False
    # The initial number of threads. Each open call needs one; llama.cpp starts more and ends them as needed.
    params.n_threads_http = 1
    # By default llama.cpp caches up to 8 GiB of prompts, which looks like a memory leak.
    params.cache_ram_mib = 0
    params.verbosity = verbosity
    return native.Server(params)


def answers(path: Path, patience: float) -> bool:
    """Whether llama.cpp's loop answers within `patience` seconds. Repeats failed probes, because the machine may be
    busy.
    """
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0:
        if _answers_once(path, left):
            return True
        time.sleep(min(RETRY_INTERVAL, left))
    return False


def _answers_once(path: Path, patience: float) -> bool:
    """Requests the list of adapters, which the loop answers between two steps. The HTTP threads answer the others."""
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
    """Returns the number of cores but one. llama.cpp's threads spin while they wait for each other, so a thread without
    a core delays all of them.
    """
    return max(1, len(os.sched_getaffinity(0)) - 1 if sys.platform == "linux" else (os.cpu_count() or 2) - 1)


def _loading(path: Path) -> Path:
    """Returns the socket's path while the model is loading. Until then the server only answers that it is not ready."""
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
    parser.add_argument("--pooling", choices=["mean"])
    parser.add_argument("--stall-timeout", type=float, default=300)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    # Exits without destructors: llama.cpp's wait for its threads, which may hang.
    os._exit(main(sys.argv[1:]))
