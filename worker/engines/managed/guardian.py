"""Runs a command, and kills its process group when the worker that started this program has died.

Usage: `guardian.py COMMAND…`, as the leader of a process group. Standard input is a pipe whose other end only the
worker has; the kernel closes it even after `kill -9`. The command's output goes to standard output, without secrets.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import BinaryIO

DRAIN_TIMEOUT = 1
HIDDEN = "***"
SECRET = re.compile(r"(api|hf|auth|access)[-_]?(key|token)|secret|password|passwd|token$", re.IGNORECASE)
"""Matches names of options and variables whose values must not be logged."""

NOT_STARTED = 127
"""The shell's exit status for a command that was not found."""


def main(command: list[str]) -> int:
    # The command handles the group's signals; this process exits with the command's status. Not SIG_IGN: the command
    # would inherit it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_it_to_the_command)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError:
        return NOT_STARTED  # The worker reports the error.
    assert process.stdout is not None
    threading.Thread(target=_end_with_parent, daemon=True).start()
    printing = threading.Thread(target=_pass_on, args=(process.stdout, secrets_in(command)), daemon=True)
    printing.start()
    status = process.wait()
    printing.join(DRAIN_TIMEOUT)
    return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    # Not through sys.stdin: a read holds its lock, which the interpreter needs at exit.
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def secrets_in(command: Sequence[str]) -> list[str]:
    """Returns secret values in the arguments, longest first: `--api-key X`, `--api-key=X`, `env VLLM_API_KEY=X`."""
    found: list[str] = []
    named = False
    for word in command:
        if named and not word.startswith("-"):
            found.append(word)
            continue  # Such an option may have several values.
        name, is_set, value = word.partition("=")
        secret = SECRET.search(name) is not None and re.fullmatch(r"[-\w]+", name) is not None
        named = secret and not is_set and name.startswith("-")
        if secret and value:
            found.append(value)
    return sorted(found, key=len, reverse=True)


def without_secrets(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _pass_on(output: BinaryIO, secrets: Sequence[str]) -> None:
    """Prints the command's output without secrets: servers print their arguments at start, including keys."""
    for line in output:
        for secret in secrets:
            line = line.replace(secret.encode(), HIDDEN.encode())
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except OSError:  # The parent is gone, and so are we in a moment; until then the command must not block.
            continue


def _leave_it_to_the_command(number: int, frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
