"""Lists the processes that an engine has started, as the kernel reports them."""

from pathlib import Path

from tests.support.wait_until import wait_until


def serving_processes(parent: int) -> list[tuple[int, int]]:
    """Returns each guardian with its command, without other children such as the test run's servers."""
    guardians = [pid for pid in children(parent) if b"guardian.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [(guardian, pid) for guardian in guardians for pid in children(guardian)]


def grandchildren(parent: int) -> list[int]:
    return [pid for child in children(parent) for pid in children(child)]


def children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(*pids: int) -> None:
    await wait_until(lambda: not any(map(is_running, pids)), f"processes {pids} to end", within=60)
