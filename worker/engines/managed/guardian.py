"""Runs a command and takes its whole process group down as soon as our parent is gone, however it went.

`guardian.py NAME COMMAND…`, as the leader of a process group, with standard input on a pipe that only the parent holds:
the kernel closes it even after a kill -9. What the command prints goes to standard error with its name in front.
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
"""In the name of an option or a variable whose value nobody may read in a log."""

NOT_STARTED = 127
"""The shell's word for a command that is not there."""


def main(name: str, command: list[str]) -> int:
    # The group's signals are the command's business; we leave with its status. Not SIG_IGN: it would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_it_to_the_command)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError:
        return NOT_STARTED  # Whoever started us has the command's name, and says it.
    assert process.stdout is not None
    threading.Thread(target=_end_with_parent, daemon=True).start()
    printing = threading.Thread(target=_print_with_name, args=(name, process.stdout, secrets_in(command)), daemon=True)
    printing.start()
    status = process.wait()
    printing.join(DRAIN_TIMEOUT)
    return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    # Not through sys.stdin: its lock is held while it reads, and the interpreter wants it when it ends.
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def secrets_in(command: Sequence[str]) -> list[str]:
    """The values of arguments that are secrets: `--api-key X`, `--api-key=X`, `env VLLM_API_KEY=X`. Longest first."""
    found: list[str] = []
    named = False
    for word in command:
        if named and not word.startswith("-"):
            found.append(word)
            continue  # Such an option may take several.
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


def _print_with_name(name: str, output: BinaryIO, secrets: Sequence[str]) -> None:
    """Servers print their arguments when they start, keys included."""
    prefix = f"[{name}] ".encode()
    for line in output:
        for secret in secrets:
            line = line.replace(secret.encode(), HIDDEN.encode())
        os.write(2, prefix + line)


def _leave_it_to_the_command(number: int, frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
