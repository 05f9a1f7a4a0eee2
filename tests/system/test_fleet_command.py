"""`ignite queues` and `ignite workers` against a running server."""

import json
from pathlib import Path
from typing import Any

from ignite.commands.fleet import screen, span, worker_row
from tests.support.chat import Prompt, session_with, submit
from tests.support.command import ignite
from tests.support.wait_until import wait_until
from tests.system.test_up import ready


async def fleet(*arguments: str) -> list[str]:
    return (await ignite(*arguments)).output.splitlines()


async def test_queues_and_workers_are_shown(tmp_path: Path) -> None:
    async with ready(tmp_path, "--concurrency", "1") as (_, url), session_with(url) as session:
        for _ in range(3):
            await submit(session, Prompt(tokens=1000, itl=1000))

        async def one_runs() -> bool:
            rows = [json.loads(line) for line in await fleet("queues", "--url", url, "--json")]
            (row,) = [row for row in rows if row["tier"] == "default"]
            return (row["waiting"], row["running"]) == (2, 1)

        await wait_until(one_runs, "one job to run and two to wait")
        heading, *rows = await fleet("queues", "--url", url)
        assert heading.split()[:4] == ["MODEL", "TIER", "WAITING", "RUNNING"]
        assert [row.split()[1:4] for row in rows] == [
            ["priority", "0", "0"],
            ["default", "2", "1"],
            ["flex", "0", "0"],
        ]
        heading, row = await fleet("workers", "--url", url)
        assert heading.split()[:4] == ["ID", "MODEL", "ENGINE", "RUNNING"]
        assert row.split()[2:5] == ["simulated", "1/1", "yes"]


def test_a_worker_is_one_row() -> None:
    row: dict[str, Any] = {
        **{"id": "worker-1", "model": "base", "models": ["base", "sql", "poems"], "engine": "vllm", "running": 3},
        **{"slots": 4, "ready": True, "version": "0.1.0", "started_at": 0},
        "engine_state": {"running": 3, "waiting": 2, "kv_cache_usage": 0.413, "restarts": 1},
    }
    told = worker_row(row)
    assert "base +2" in told and "3+2 kv 41% restarts 1" in told
    assert "kv" not in worker_row({**row, "engine_state": None})


def test_spans_are_short() -> None:
    assert [span(seconds) for seconds in (None, 0, 0.4, 59, 119, 150, 7000, 9000)] == [
        *("", "0s", "0s", "59s"),
        *("119s", "2m", "117m", "2h"),
    ]


def test_a_screen_holds_what_fits() -> None:
    shown = screen([f"{number} " + "x" * 500 for number in range(100)])
    assert all(len(line) <= 120 for line in shown.split("\n")[1:])
