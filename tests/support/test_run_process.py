import signal
import sys

import pytest

from tests.support.leak_check import no_leaks
from tests.support.run_process import run_process
from tests.support.wait_until import wait_until

READY_THEN_DRAIN = """
import signal, sys, time
def drain(*_):
    print("drained")
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
print("ready on 127.0.0.1:8000")
signal.pause()
"""

CHILD_THAT_STAYS = """
import subprocess
print("child", subprocess.Popen(["sleep", "600"]).pid)
"""


async def test_waits_until_ready_and_tells_how_it_ended() -> None:
    async with (
        no_leaks(),
        run_process(sys.executable, "-c", READY_THEN_DRAIN, ready=r"ready on (\S+)") as process,
    ):
        process.send(signal.SIGTERM)
        assert "drained" in await process.expect_exit(0)


async def test_a_process_that_ends_before_it_is_ready_fails_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(AssertionError, match=r"ended \(3\) without printing"):
        async with run_process(sys.executable, "-c", "print('no port'); exit(3)", ready="ready"):
            pass
    assert "no port" in capsys.readouterr().err


async def test_kill_is_seen_as_the_signal() -> None:
    async with run_process(sys.executable, "-c", READY_THEN_DRAIN, ready="ready") as process:
        process.kill()
        assert await process.wait() == -signal.SIGKILL


async def test_what_the_process_left_behind_is_ended_too() -> None:
    async with run_process(sys.executable, "-c", CHILD_THAT_STAYS) as process:
        child = (await process.wait_for(r"child (\d+)"))[1]
        await process.wait()
        assert _runs(child)
    await wait_until(lambda: not _runs(child), "the child to end")


def _runs(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().split()[2] != "Z"
    except FileNotFoundError:
        return False
