"""A network namespace with one cable to this machine, which can be pulled. Needs root and iproute2."""

import os
import random
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

INSIDE = "wire"


@dataclass(frozen=True)
class Namespace:
    """`address` is this machine's at its end of the cable: all that can be reached from inside."""

    name: str
    address: str

    @property
    def entry(self) -> Sequence[str]:
        """What goes in front of a command that is to run inside."""
        return "ip", "netns", "exec", self.name

    def pull(self) -> None:
        """From the inner end: what this machine sends meanwhile stays on the cable, whatever other routes it has."""
        _ip("-n", self.name, "link", "set", INSIDE, "down")

    def plug_in(self) -> None:
        _ip("-n", self.name, "link", "set", INSIDE, "up")


def why_no_namespaces() -> str | None:
    """The reason why this machine cannot have them; None where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command `ip` (iproute2)"
    try:
        with namespace():
            return None
    except RuntimeError as error:
        return f"network namespaces do not work here: {error}"


@contextmanager
def namespace() -> Generator[Namespace]:
    """Nothing of it is left afterwards."""
    number = random.SystemRandom().randrange(2**15)
    name, outside = f"ignite-test-{number}", f"ignite{number}"
    # 198.18.0.0/15 is set aside for tests of networks: nobody is to be reached there.
    near, far = (f"198.18.{number // 128}.{number % 128 * 2 + end}" for end in (0, 1))
    try:
        _ip("netns", "add", name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", INSIDE, "netns", name)
        _ip("address", "add", f"{near}/31", "dev", outside)
        _ip("-n", name, "address", "add", f"{far}/31", "dev", INSIDE)
        _ip("link", "set", outside, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", INSIDE, "up")
        yield Namespace(name, near)
    finally:
        for leftover in (("link", "delete", outside), ("netns", "delete", name)):
            with suppress(RuntimeError):
                _ip(*leftover)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
