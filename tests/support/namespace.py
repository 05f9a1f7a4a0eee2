"""A network namespace with one virtual cable to this machine, which a test can unplug. Needs root and iproute2."""

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
    """`address`: of this machine at its end of the cable, the only address that is reachable from inside."""

    name: str
    address: str

    @property
    def entry(self) -> Sequence[str]:
        """The prefix of a command that runs inside."""
        return "ip", "netns", "exec", self.name

    def pull(self) -> None:
        """Unplugs the cable at the inner end, so that packets of this machine take no other route meanwhile."""
        _ip("-n", self.name, "link", "set", INSIDE, "down")

    def plug_in(self) -> None:
        _ip("-n", self.name, "link", "set", INSIDE, "up")


def why_no_namespaces() -> str | None:
    """Returns why this machine cannot have namespaces, or None."""
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
    """Creates the namespace, and removes it on exit."""
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
