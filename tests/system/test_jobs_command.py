"""`ignite jobs` against a running server."""

import json

import pytest

from tests.producer.api import embedded_api
from tests.support.chat import Prompt, ended, job_of, session_with, submit
from tests.support.command import ignite

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def jobs(url: str, *arguments: str, status: int = 0) -> str:
    return (await ignite("jobs", "--url", url, *arguments, status=status)).output


async def test_ls_lists_the_latest_first(url: str) -> None:
    async with session_with(url) as session:
        ids = [await submit(session, Prompt()) for _ in range(2)]
        for job in ids:
            await ended(session, job)

    heading, *rows = (await jobs(url, "ls", "--limit", "2")).splitlines()

    assert heading.split()[:2] == ["ID", "STATUS"]
    assert [row.split()[:2] for row in rows] == [[ids[1], "completed"], [ids[0], "completed"]]


async def test_get_shows_the_job_as_the_api_does(url: str) -> None:
    async with session_with(url) as session:
        job = await submit(session, Prompt())
        record = await ended(session, job)

    assert json.loads(await jobs(url, "get", job)) == record


async def test_an_unknown_job_is_one_sentence(url: str) -> None:
    assert await jobs(url, "get", "chatcmpl-none", status=1) == "Error: No job 'chatcmpl-none'.\n"


async def test_a_refused_key_is_answered_with_where_to_give_one() -> None:
    async with embedded_api(worker=False, api_keys="alice=sk-of-alice-0123456789") as api:
        printed = await jobs(api.server.address, "ls", status=1)
    assert printed.endswith("Give a key with --key or IGNITE_API_KEY.\n"), printed


async def test_tail_follows_a_running_job_to_its_end(url: str) -> None:
    prompt = Prompt(tokens=50, itl=20)
    async with session_with(url) as session:
        job = await submit(session, prompt)

    assert await jobs(url, "tail", job) == prompt.text + "\n"


async def test_cancel_ends_a_running_job(url: str) -> None:
    async with session_with(url) as session:
        job = await submit(session, Prompt(tokens=1000, itl=1000))

        shown = json.loads(await jobs(url, "cancel", job))

        assert shown["status"] == (await job_of(session, job))["status"] == "cancelled"


async def test_an_unreachable_server_is_one_sentence() -> None:
    output = await jobs("http://127.0.0.1:9", "ls", status=1)

    assert "http://127.0.0.1:9 does not answer" in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    "options", [("--url", "nowhere"), ("--url", "ftp://x"), ("--url", "http://"), ("--key", "a\nb")]
)
async def test_an_invalid_address_or_key(options: tuple[str, str]) -> None:
    said = await ignite("jobs", *options, "ls", status=1)
    assert options[0] in said.output and len(said.output.splitlines()) == 1
