"""`ignite up` is killed repeatedly at any moment: accepted jobs survive, and nothing is left over."""

import random
import signal
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, Promises, killed_after
from tests.support.wait_until import wait_until

PATIENT = ("--max-tries", "50", "--quarantine-after", "50")
"""A job that is killed again before it has said anything is not to blame here."""


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
async def test_accepted_jobs_survive_many_kills(tmp_path: Path, kills: int) -> None:
    """`kills`: number of kills under load; others happen during the start."""
    dice, promises, ignite = random.Random(2026), Promises(), Embedded(tmp_path, *PATIENT)

    for number in range(kills):
        async with ignite.running() as process, promises.clients(ignite.url, dice):
            await promises.reached(dice.randint(1, 150))
            if number == kills - 1:
                await wait_until(promises.are_of_every_kind, "some of everything", within=120)
            process.kill()
            await process.wait()
        if number % 2:
            async with ignite.starting() as process:
                await killed_after(process, dice.uniform(0.3, 1.5))
    async with ignite.running() as process:
        await killed_after(process, 0)
    async with ignite.running() as process:
        await promises.are_kept(ignite.url)
        await process.stop()

    assert_nothing_left_over(ignite)
    jobs = {job for (job,) in ignite.rows("SELECT id FROM jobs")}
    assert promises.background.keys() | promises.to_cancel <= jobs
    assert len(jobs) <= promises.asked
    assert ignite.rows("SELECT max(attempt) > 1 FROM jobs") == [(1,)], "some were begun again"


@pytest.mark.long
async def test_a_stop_under_load_loses_nothing(tmp_path: Path) -> None:
    dice, promises, ignite = random.Random(7), Promises(), Embedded(tmp_path, "--max-tries", "1", "--drain", "1")

    async with ignite.running() as process, promises.clients(ignite.url, dice):
        await wait_until(lambda: len(promises.background) > 5, "some jobs")
        process.send(signal.SIGTERM)
        await process.expect_exit(0)
    async with ignite.running() as process:
        await promises.are_kept(ignite.url)
        await process.stop()

    assert_nothing_left_over(ignite)


def assert_nothing_left_over(ignite: Embedded) -> None:
    over = "('completed', 'cancelled')"
    assert ignite.rows(f"SELECT id, status, ending FROM jobs WHERE status NOT IN {over}") == []
    assert ignite.rows("SELECT job_id FROM messages") == []
    assert ignite.rows("SELECT job FROM log WHERE job NOT IN (SELECT key FROM jobs)") == []
    assert ignite.rows("SELECT job FROM bodies WHERE job NOT IN (SELECT key FROM jobs)") == []
