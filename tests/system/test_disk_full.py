"""`ignite up` with a full disk under load: it refuses writes, serves reads, and recovers."""

import asyncio
import errno
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ignite.up import backend_with_room
from shared.backends.embedded import backend
from shared.settings import load_settings
from tests.support.chat import Gate, Prompt, ended, job_of, session_with, submit
from tests.support.gated import MODULE
from tests.support.run_process import RunningProcess, run_process
from tests.support.server import free_ports
from tests.support.small_disk import as_seen_by, filled, on_small_disk, why_no_small_disk
from tests.support.wait_until import wait_until

WHY_NOT = why_no_small_disk()
JOBS = 90
"""More than are kept in memory: the others are read from the database when their turn comes."""


FILLED = 'dd if=/dev/zero of="$0" bs=64K 2>/dev/null; exec "$@"'


@asynccontextmanager
async def served_from(disk: Path) -> AsyncGenerator[tuple[RunningProcess, str]]:
    (port,) = free_ports(1)
    ignite = (sys.executable, "-m", MODULE, "up", "--engine", "simulated", "--concurrency", "2")
    command = on_small_disk(disk, "24m", *ignite, "--data-dir", str(disk / "data"), "--port", str(port))
    async with run_process(*command, ready="ignite is ready") as process:
        yield process, f"http://127.0.0.1:{port}"


@pytest.mark.skipif(WHY_NOT is not None, reason=f"NOT TESTED: {WHY_NOT}")
async def test_the_process_recovers_from_a_full_disk(tmp_path: Path) -> None:
    gate, mount = Gate(tmp_path / "gate", silent=True), tmp_path / "disk"
    mount.mkdir()
    async with served_from(mount) as (process, url), session_with(url) as session:
        jobs = [await submit(session, Prompt(tokens=4, gate=gate)) for _ in range(JOBS)]
        disk = as_seen_by(process.pid, mount)
        with filled(disk):
            # Some are accepted before: the database's log has room of its own, which it uses again.
            answer = await wait_until(lambda: refused(session, *SUBMIT), "a submit to be refused")
            assert answer[0] == 507
            await process.wait_for("database.refuses")
            assert (await refused(session, *READY))[0] == 503
            status, headers, body = await refused(session, *upload())
            assert (status, "retry-after" in headers, "storage_full" in body) == (507, True, True)
            left = [path for path in (disk / "data" / "files").rglob("*") if path.is_file()]
            assert not left, "no part of the upload"
            assert (await job_of(session, jobs[-1]))["status"] == "queued", "reads go on"
            gate.open()  # What runs meets the full disk, too.
            assert process.returncode is None
        await wait_until(lambda: "database.writes_again" in process.output, "the disk to be written to again")
        for job in jobs:
            assert (await ended(session, job))["status"] == "completed", "nothing that was accepted is lost"
        async with session.request(*upload()[:2], **upload()[2]) as answer:
            assert answer.status == 200
        assert await process.stop() == 0


@pytest.mark.skipif(WHY_NOT is not None, reason=f"NOT TESTED: {WHY_NOT}")
async def test_a_start_on_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    ignite = (sys.executable, "-m", "ignite", "up", "--engine", "simulated", "--port", "0", "--grpc", "false")
    filler = mount / "filler"
    command = ("sh", "-c", FILLED, str(filler), *ignite, "--data-dir", str(mount / "data"))
    async with run_process(*on_small_disk(mount, "4m", *command)) as process:
        await process.wait_for("database.refuses")
        assert process.returncode is None
        as_seen_by(process.pid, filler).unlink()
        await process.wait_for("ignite is ready")
        assert "database.writes_again" in process.output
        assert await process.stop() == 0


async def test_a_start_that_waits_for_room_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: Path) -> None:
        raise OSError(errno.EDQUOT, "the user's quota is used up")

    monkeypatch.setattr(backend, "require_space", no_space)
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(SystemExit) as ended:
        async with backend_with_room(load_settings({"data_dir": str(tmp_path)}), stop):
            pass
    assert ended.value.code == 0


Call = tuple[str, str, dict[str, Any]]
SUBMIT: Call = ("POST", "/v1/chat/completions", {"json": Prompt().body(background=True)})
READY: Call = ("GET", "/readyz", {})


def upload() -> Call:
    form = aiohttp.FormData({"purpose": "user_data"})
    form.add_field("file", b"x" * 100_000, filename="a.txt")
    return "POST", "/v1/files", {"data": form}


async def refused(session: aiohttp.ClientSession, method: str, path: str, options: Any) -> tuple[int, set[str], str]:
    async with session.request(method, path, **options) as answer:
        body = await answer.text()
        assert answer.status in (503, 507), (answer.status, body)
        assert "data/" not in body, "no path"
        return answer.status, {name.lower() for name in answer.headers}, body
