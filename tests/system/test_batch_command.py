"""`ignite batch` against a running server."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import FormData

from ignite.commands.api_client import Api
from ignite.commands.batch_files import RunState, part_of
from tests.support.batches import ENDPOINT, assert_each_once, jsonl, line, response_line
from tests.support.command import ignite
from tests.support.engine_server import engine_server
from tests.support.run_process import run_ignite
from tests.support.wait_until import wait_until
from tests.system.test_up import ready

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
    assert "out.jsonl exists already" in again
    await batch(url, "run", source, "-o", str(output), "--again")
    assert_each_once(read(output), range(50))

    newest = (await batch(url, "ls", "--limit", "1")).splitlines()[1].split()
    assert newest[1] == "completed" and newest[-4:] == ["50", "50", "0", "-"]
    assert json.loads(await batch(url, "get", newest[0]))["status"] == "completed"
    assert "nothing to run again" in await batch(url, "retry", newest[0], status=1)
    assert "Cannot cancel" in await batch(url, "cancel", newest[0], status=1)


async def test_run_takes_the_endpoint_from_the_file(url: str, tmp_path: Path) -> None:
    source, output = written(tmp_path / "in.jsonl", *map(response_line, range(3))), tmp_path / "out"
    assert "completed: 3 of 3 lines answered" in await batch(url, "run", source, "-o", str(output))
    bodies = [each["response"]["body"] for each in read(output)]  # type: ignore[index]
    assert {body["object"] for body in bodies} == {"response"}


async def test_run_reports_failed_lines(url: str, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", line(0), line(1, temperature=9))
    said = await batch(url, "run", source, "-o", str(tmp_path / "out"), status=1)
    assert "completed: 1 of 2 lines answered, 1 failed" in said
    assert [each["custom_id"] for each in read(tmp_path / "out.errors")] == ["line-1"]


async def test_run_does_not_upload_an_invalid_file(url: str, tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", line(0), line(0), {"custom_id": "x"})
    said = await batch(url, "run", source, "-o", str(tmp_path / "out"), status=2)
    assert f"{source}:2: The custom_id 'line-0'" in said
    assert f"{source}:3: Missing required parameter: 'method'" in said
    unknown = written(tmp_path / "unknown.jsonl", line(0, model="gpt-6"))
    assert "does not exist" in await batch(url, "run", unknown, "-o", str(tmp_path / "out"), status=2)


async def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    """The last lines wait for a file, so that the batch is still running at Ctrl-C, even on a slow machine."""
    gate = tmp_path / "gate"
    lines = [line(number, prompt=f"seed={number}{f' gate={gate}' if number >= 45 else ''}") for number in range(50)]
    (tmp_path / "run").mkdir()
    source, output = written(tmp_path / "run" / "in.jsonl", *lines), tmp_path / "run" / "out"
    async with (
        engine_server() as (_, engine),
        ready(tmp_path / "data", "--engine", "openai", "--engine-url", engine, "--concurrency", "8") as (_, url),
    ):
        command = ("batch", "--url", url, "run", source, "-o", str(output))
        async with run_ignite(*command) as process:
            await wait_until(lambda: has_answers(output), "the first answers")
            process.send(signal.SIGINT)
            assert "runs on; the same command" in await process.expect_exit(130)
        assert names_in(tmp_path / "run") == ["in.jsonl", "out.batch", "out.errors.part", "out.part"]

        gate.touch()
        await batch(url, "run", source, "-o", str(output))
        assert_each_once(read(output), range(50))
        assert names_in(tmp_path / "run") == ["in.jsonl", "out"]


def has_answers(output: Path) -> bool:
    part = part_of(output)
    return part.exists() and part.stat().st_size > 0


async def test_a_run_whose_answer_was_lost_finds_its_batch(url: str, tmp_path: Path) -> None:
    """The process was killed after the API had created the batch and before the batch's id was saved."""
    source, output = written(tmp_path / "in.jsonl", *map(line, range(3))), tmp_path / "out"
    api = Api(url, None)
    form = FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", jsonl(map(line, range(3))), filename="in.jsonl")
    file = (await api.json("POST", "/v1/files", data=form))["id"]
    state = replace(RunState.of(Path(source), "24h", replaces=False), file=file)
    asked = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
    made = await api.json("POST", "/v1/batches", json=asked, headers={"idempotency-key": state.key})
    state.write(tmp_path / "out.batch")

    assert made["id"] in await batch(url, "run", source, "-o", str(output))
    assert_each_once(read(output), range(3))
    assert names_in(tmp_path) == ["in.jsonl", "out"]


async def test_existing_results_are_replaced_only_by_new_ones(url: str, tmp_path: Path) -> None:
    output, errors = tmp_path / "out", tmp_path / "out.errors"
    for path in (output, errors):
        path.write_text("older\n")
    bad = written(tmp_path / "bad.jsonl", line(0, model="gpt-6"))
    await batch(url, "run", bad, "-o", str(output), "--again", status=2)
    assert output.read_text() == errors.read_text() == "older\n", "nothing was run"

    good = written(tmp_path / "good.jsonl", line(0))
    await batch(url, "run", good, "-o", str(output), "--again")
    assert_each_once(read(output), range(1))
    assert names_in(tmp_path) == ["bad.jsonl", "good.jsonl", "out"], "old errors are removed with the old answers"
