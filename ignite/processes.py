"""Runs several processes of one kind on one machine, because a Python process uses one core.

The parent owns only the shared API socket. It forwards signals, restarts processes that died, and exits when all have
ended. A child drains when its parent has died, as after SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

import structlog

log = structlog.get_logger(__name__)

RESTART_AFTER = 1.0
"""Seconds until a process that died is started again."""

Child = Callable[[], object]


def supervise(count: int, child: Child) -> None:
    """Runs `child` in `count` processes until all have ended, then exits: with the status of a failed one, if any."""
    family = Family(child, *os.pipe())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, family.pass_on)
    for _ in range(count):
        family.start()
    while family.living:
        family.see_one_end()
    sys.exit(family.status)


@dataclass
class Family:
    """The child processes. Only the parent has `alive_end`, a pipe's end, open: it closes when the parent dies, and the
    children notice that on `watched_end`.
    """

    child: Child
    watched_end: int
    alive_end: int
    living: set[int] = field(default_factory=set[int])
    stopping: bool = False
    status: int = 0

    def start(self) -> None:
        pid = os.fork()
        if pid == 0:
            self._live()
        self.living.add(pid)
        if self.stopping:  # The signal arrived between the fork and the line above.
            os.kill(pid, signal.SIGTERM)

    def pass_on(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Sends SIGTERM to all children, for SIGINT too: Ctrl-C reaches only the parent."""
        self.stopping = True
        for pid in self.living:
            os.kill(pid, signal.SIGTERM)

    def see_one_end(self) -> None:
        pid, status = os.wait()
        self.living.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if self.stopping:
            self.status = self.status or max(code, 0)
        elif code in (0, 1):
            # The child ended by itself with a logged reason, which applies to every other child.
            self.status = code
            self.pass_on()
        else:
            log.warning("process.died", pid=pid, code=code, next=f"starting another in {RESTART_AFTER:.0f} s")
            time.sleep(RESTART_AFTER)
            self.start()

    def _live(self) -> NoReturn:
        status = 1
        try:
            os.setpgid(0, 0)
            os.close(self.alive_end)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            end_with(self.watched_end)
            self.child()
            status = 0
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1
        except Exception:
            log.exception("process.crashed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def end_with(pipe: int) -> None:
    """Sends SIGTERM to this process when the other end of `pipe` closes."""

    def wait() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
