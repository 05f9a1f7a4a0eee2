"""A process with wrong settings ends with one sentence, without a password, before it is announced."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.backends.distributed import open_distributed
from tests.support.redis import Redis
from tests.support.run_process import run_ignite

PASSWORD = "pa55-of-the-broker"


async def refused(*command: str, **env: str) -> str:
    """Returns the last printed line; other lines are log lines."""
    async with run_ignite(*command, env={"IGNITE_NO_AUTH": "1"} | env if command[0] == "api" else env) as process:
        output = await process.expect_exit(1)
    assert PASSWORD not in output and "Traceback" not in output
    assert "is ready" not in output
    return output.splitlines()[-1]


@pytest.mark.parametrize(
    "command", [("api", "--port", "0"), ("worker", "--engine", "simulated")], ids=lambda each: each[0]
)
async def test_a_virtual_host_or_user_that_the_broker_does_not_know(
    amqp_url: str, redis_url: str, redis_server: Redis, redis_database: int, command: tuple[str, ...]
) -> None:
    port = urlsplit(amqp_url).port
    for url, says in (
        (f"amqp://guest:guest@127.0.0.1:{port}/nowhere", "no virtual host 'nowhere'"),
        (f"amqp://guest:{PASSWORD}@127.0.0.1:{port}/", "refuses the user 'guest' or its password"),
    ):
        said = await refused(*command, IGNITE_AMQP_URL=url, IGNITE_REDIS_URL=redis_url)
        assert said.startswith("ignite: The broker refuses the setting amqp_url") and says in said
    with redis_server.client(redis_database) as client:
        assert not client.exists("ignite:workers") and not client.keys("*worker*")


async def test_the_start_waits_for_an_unavailable_broker(redis_url: str) -> None:
    async with open_distributed("amqp://127.0.0.1:1/", redis_url) as backend:
        assert (await backend.check())["broker"] is not None


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--model-id", "{a}:b/../c d"], "model_id"), (["--model", "a" * 300], "--model-id")],
    ids=["characters", "length"],
)
async def test_a_model_without_a_usable_name(tmp_path: Path, options: list[str], says: str) -> None:
    arguments = ("up", "--port", "0", "--data-dir", str(tmp_path), "--engine", "simulated", *options)
    said = await refused(*arguments)
    assert says in said and len(said) < 400
