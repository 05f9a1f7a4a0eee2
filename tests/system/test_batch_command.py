"""`ignite batch` against a running server."""

import json
import signal
from pathlib import Path

import pytest

from tests.support.batches import assert_each_once, jsonl, line
from tests.support.command import ignite
from tests.support.run_process import run_ignite
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def batch(url: str, *arguments: str, status: int = 0) -> str:
    return (await ignite("batch", "--url", url, *arguments, status=status)).output


def written(path: Path, *lines: dict[str, object]) -> str:
    path.write_bytes(jsonl(lines))
    return str(path)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(each) for each in path.read_text().splitlines()]


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_run_writes_every_answer(url: str, tmp_path: Path) -> None:
    source, output = written(tmp_path / "in.jsonl", *map(line, range(50))), tmp_path / "out.jsonl"
    said = await batch(url, "run", source, "-o", str(output))
    assert_each_once(read(output), range(50))
    assert said.endswith("completed: 50 of 50 lines answered\n")
    assert names_in(tmp_path) == ["in.jsonl", "out.jsonl"]

    again = await batch(url, "run", source, "-o", str(output), status=1)
    assert "out.jsonl is there already" in again
    await batch(url, "run", source, "-o", str(output), "--again")
    assert_each_once(read(output), range(50))

    newest = (await batch(url, "ls", "--limit", "1")).splitlines()[1].split()
    assert newest[1] == "completed" and newest[-3:] == ["50", "50", "0"]
    assert json.loads(await batch(url, "get", newest[0]))["status"] == "completed"
    assert "nothing to run again" in await batch(url, "retry", newest[0], status=1)
    assert "Cannot cancel" in await batch(url, "cancel", newest[0], status=1)


async def test_run_says_where_lines_failed(url: str, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", line(0), line(1, temperature=9))
    said = await batch(url, "run", source, "-o", str(tmp_path / "out"), status=1)
    assert "completed: 1 of 2 lines answered, 1 failed" in said
    assert [each["custom_id"] for each in read(tmp_path / "out.errors")] == ["line-1"]


async def test_run_sends_no_bad_file(url: str, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", line(0), line(0), {"custom_id": "x"})
    said = await batch(url, "run", source, "-o", str(tmp_path / "out"), status=2)
    assert f"{source}:2: The custom_id 'line-0'" in said
    assert f"{source}:3: Missing required parameter: 'method'" in said
    unknown = written(tmp_path / "unknown.jsonl", line(0, model="gpt-6"))
    assert "does not exist" in await batch(url, "run", unknown, "-o", str(tmp_path / "out"), status=2)


async def test_a_run_that_was_broken_off_goes_on(url: str, tmp_path: Path) -> None:
    slow = " ttft=6000"
    lines = [line(number, prompt=f"seed={number}{slow if number >= 290 else ''}") for number in range(300)]
    source, output = written(tmp_path / "in.jsonl", *lines), tmp_path / "out"
    command = ("batch", "--url", url, "run", source, "-o", str(output))
    async with run_ignite(*command) as process:
        await wait_until(output.exists, "the first answers")
        process.send(signal.SIGINT)
        assert "goes on without us" in await process.expect_exit(130)
    assert (tmp_path / "out.batch").exists()
    await batch(url, "run", source, "-o", str(output))
    assert_each_once(read(output), range(300))
    assert not (tmp_path / "out.batch").exists()
