"""`ignite keys`, with and without a running server."""

import json
import re
from pathlib import Path

import aiohttp
from click.testing import Result

from tests.support.cluster import API_READY
from tests.support.command import ignite
from tests.support.run_process import run_ignite
from tests.support.wait_until import wait_until
from tests.system.test_up import ignite_up, ready


async def keys(*arguments: str, status: int = 0) -> Result:
    return await ignite("keys", *arguments, status=status)


async def status_of(url: str, key: str) -> int:
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session,
        session.get(f"{url}/v1/jobs") as response,
    ):
        return response.status


async def test_a_key_is_created_used_and_revoked(tmp_path: Path) -> None:
    async with ignite_up(tmp_path, "--host", "0.0.0.0") as process:
        assert "the API needs keys" in await process.expect_exit(1)
    here = ("--data-dir", str(tmp_path))
    made = await keys(*here, "create", "--name", "alice")
    first = made.stdout.strip()
    assert re.fullmatch(r"sk-ignite-[\w-]{43}", first)
    assert "not shown again" in made.stderr

    async with ready(tmp_path, "--host", "0.0.0.0", "--log-level", "debug") as (process, address):
        url = address.replace("0.0.0.0", "127.0.0.1")
        second = (await keys(*here, "create", "--name", "alice-2", "--tenant", "alice")).stdout.strip()
        assert [await status_of(url, key) for key in (first, second, "none")] == [200, 200, 401]

        await keys(*here, "revoke", "alice")
        await wait_until(lambda: is_refused(url, first), "the revoked key to be refused")
        assert await status_of(url, second) == 200
    for secret in (first, second):
        assert secret.removeprefix("sk-ignite-") not in process.output
        assert secret.removeprefix("sk-ignite-").encode() not in contents(tmp_path)


def contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


async def is_refused(url: str, key: str) -> bool:
    return await status_of(url, key) == 401


async def test_keys_are_listed_without_their_secrets(tmp_path: Path) -> None:
    here = ("--data-dir", str(tmp_path))
    secret = (await keys(*here, "create", "--name", "ops", "--operator", "--models", "a, b")).stdout.strip()
    await keys(*here, "create", "--name", "alice", "--weight", "2")

    heading, *rows = (await keys(*here, "ls")).stdout.splitlines()
    assert heading.split() == ["ID", "NAME", "TENANT", "KEY", "CREATED", "LIMITS"]
    assert [row.split()[1:3] for row in rows] == [["ops", "ops"], ["alice", "alice"]]
    assert rows[0].endswith("models a,b, operator")
    assert rows[1].endswith("weight 2")

    ops, _ = map(json.loads, (await keys(*here, "ls", "--json")).stdout.splitlines())
    assert (ops["hint"], ops["limits"]["models"], ops["operator"]) == (secret[-4:], ["a", "b"], True)
    assert "digest" not in ops


async def test_errors_are_one_sentence(tmp_path: Path) -> None:
    empty = ("--data-dir", str(tmp_path / "none"))
    assert "there is no Ignite data in" in (await keys(*empty, "ls", status=1)).stderr
    assert not (tmp_path / "none").exists()
    here = ("--data-dir", str(tmp_path))
    await keys(*here, "create", "--name", "alice")
    assert "already" in (await keys(*here, "create", "--name", "alice", status=1)).stderr
    assert "Invalid tenant 'a b'" in (await keys(*here, "create", "--name", "b", "--tenant", "a b", status=1)).stderr
    assert (await keys(*here, "revoke", "bob", status=1)).stderr == "Error: There is no key 'bob'.\n"
    revoked = await keys(*here, "revoke", "alice")
    assert "last stored key" in revoked.stderr
    redis = ("--amqp-url", "amqp://127.0.0.1:9", "--redis-url", "redis://127.0.0.1:9/0")
    assert "Redis" in (await keys(*redis, "ls", status=1)).stderr


async def test_after_the_first_key_calls_need_a_key_permanently(tmp_path: Path) -> None:
    here = ("--data-dir", str(tmp_path))
    async with ready(tmp_path) as (_, url):
        assert await status_of(url, "none") == 200
        made = await keys(*here, "create", "--name", "alice")
        assert "This is the first key" in made.stderr
        assert "--tenant local" in made.stderr
        await wait_until(lambda: is_refused(url, "none"), "a key to be needed")
        assert await status_of(url, made.stdout.strip()) == 200
        assert "first key" not in (await keys(*here, "create", "--name", "bob")).stderr
    for name in ("alice", "bob"):
        await keys(*here, "revoke", name)
    async with ready(tmp_path) as (_, url):
        assert await status_of(url, "none") == 401
    async with ready(tmp_path, "--no-auth") as (_, url):
        assert await status_of(url, "none") == 200


async def test_an_api_without_keys_answers_401_with_advice(amqp_url: str, redis_url: str) -> None:
    servers = {"IGNITE_AMQP_URL": amqp_url, "IGNITE_REDIS_URL": redis_url}
    async with run_ignite("api", "--port", "0", env=servers) as process:
        url = (await process.wait_for(API_READY))[1]
        assert "ignite keys create" in process.output
        assert "--no-auth" in process.output
        assert await status_of(url, "none") == 401
    async with run_ignite("api", "--port", "0", "--no-auth", env=servers) as process:
        assert await status_of((await process.wait_for(API_READY))[1], "none") == 200
    async with run_ignite("api", "--no-auth", "--host", "0.0.0.0", env=servers) as process:
        assert "not a loopback address" in await process.expect_exit(1)
