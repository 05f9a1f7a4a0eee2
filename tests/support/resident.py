"""The memory of a process, as the kernel counts it."""

import re
from pathlib import Path


def resident(pid: int) -> int:
    """Returns the bytes that the process has in memory."""
    return _status(pid, "VmRSS")


def highest_resident(pid: int) -> int:
    """Returns the most bytes that the process had in memory, since its start or the last `forget_highest`."""
    return _status(pid, "VmHWM")


def forget_highest(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
