"""A small disk that only one process and the test can see: a tmpfs in a mount namespace. Needs root."""

import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

MOUNTED = 'mount -t tmpfs -o size="$0",mode=700 tmpfs "$1" && shift && exec "$@"'


def why_no_small_disk() -> str | None:
    """Returns why this machine cannot have one, or None."""
    if os.geteuid() != 0:
        return "a disk of its own needs root"
    if shutil.which("unshare") is None:
        return "a disk of its own needs the command `unshare` (util-linux)"
    done = subprocess.run(on_small_disk(Path("/mnt"), "64k", "true"), capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"a disk of its own does not work here: {done.stderr.strip()}"


def on_small_disk(at: Path, size: str, *command: str) -> Sequence[str]:
    """Returns a command that runs with a disk of this size at the directory `at`. The disk ends with the process."""
    return "unshare", "--mount", "sh", "-c", MOUNTED, size, str(at), *command


def as_seen_by(pid: int, path: Path) -> Path:
    return Path(f"/proc/{pid}/root{path}")


@contextmanager
def filled(disk: Path) -> Generator[None]:
    """Fills the disk while inside."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                fill(file.fileno(), bytes(size))
        yield
    finally:
        filler.unlink()


def fill(descriptor: int, data: bytes) -> None:
    try:
        while os.write(descriptor, data):
            pass
    except OSError:
        return
