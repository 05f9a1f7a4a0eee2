"""`ignite doctor` checks every server and reports each problem in one sentence."""

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from ignite.commands.doctor import examine
from shared.backends.rabbitmq.explained import explained
from shared.settings import load_settings
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.run_process import run_process

PASSWORD = "pa55-of-the-server"


class Report:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.text = ""

    async def of(self, amqp_url: str, redis_url: str, **options: str) -> int:
        chosen = {"engine": "simulated", "port": "0", "grpc_port": "0", "no_auth": True} | options
        bad = await examine(load_settings({"amqp_url": amqp_url, "redis_url": redis_url, **chosen}))
        self.text = self._capsys.readouterr().out
        assert PASSWORD not in self.text
        return bad

    def line(self, what: str) -> str:
        (line,) = [line for line in self.text.splitlines() if line[5:].startswith(f"{what} ")]
        return line


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    return Report(capsys)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def with_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{user}@127.0.0.1:{parts.port}{parts.path}"


async def test_healthy_servers(report: Report, amqp_url: str, redis_url: str) -> None:
    assert await report.of(amqp_url, redis_url) == 1, "there is no worker"
    assert "answers" in report.line("broker") and "answers" in report.line("store")
    assert "none connected" in report.line("workers")


async def test_the_broker_is_checked_while_the_store_is_down(report: Report, amqp_url: str, closed_port: int) -> None:
    assert await report.of(amqp_url, f"redis://:{PASSWORD}@127.0.0.1:{closed_port}/0") == 1
    assert report.line("broker").startswith("ok")
    assert report.line("store").startswith("BAD") and str(closed_port) in report.line("store")


async def test_only_the_report_is_printed(closed_port: int) -> None:
    servers = {
        "IGNITE_AMQP_URL": f"amqp://guest:{PASSWORD}@127.0.0.1:{closed_port}/",
        "IGNITE_REDIS_URL": f"redis://127.0.0.1:{closed_port}/0",
    }
    async with run_process(sys.executable, "-m", "ignite", "doctor", env=servers) as doctor:
        lines = (await doctor.expect_exit(1)).splitlines()
    assert {line.split()[0] for line in lines} == {"ok", "BAD", "→", "Problems"}, lines


async def test_both_urls_are_reported_if_both_are_wrong(report: Report, amqp_url: str, closed_port: int) -> None:
    unknown = f"{amqp_url.rpartition('/')[0]}/nowhere"
    assert await report.of(unknown, f"redis://127.0.0.1:{closed_port}/0") == 2
    assert "no virtual host 'nowhere'" in report.line("broker")
    assert report.line("store").startswith("BAD")


async def test_a_wrong_password(report: Report, amqp_url: str, redis_url: str, redis_server: Redis) -> None:
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "doctor", "on", ">right", "~*", "&*", "+@all")
        assert (
            await report.of(with_user(amqp_url, f"guest:{PASSWORD}"), with_user(redis_url, f"doctor:{PASSWORD}")) == 2
        )
        client.execute_command("ACL", "DELUSER", "doctor")
    assert "refuses the user 'guest' or its password" in report.line("broker")
    assert "refuses the user or the password" in report.line("store")


async def test_missing_permissions(
    report: Report, amqp_url: str, vhost: str, redis_url: str, redis_server: Redis, rabbitmq_server: RabbitMQ
) -> None:
    rabbitmq_server.create_user("doctor", PASSWORD, vhost, may="^$")
    with redis_server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "doctor", "on", f">{PASSWORD}", "~*", "&*", "+@read", "+info", "+select"
        )
        assert (
            await report.of(with_user(amqp_url, f"doctor:{PASSWORD}"), with_user(redis_url, f"doctor:{PASSWORD}")) == 2
        )
        client.execute_command("ACL", "DELUSER", "doctor")
    rabbitmq_server.delete_user("doctor")
    assert "access to exchange" in report.line("broker") and "refused" in report.line("broker")
    assert "no permissions to run the 'set' command" in report.line("store")


async def test_mixed_up_ports_and_schemes(report: Report, amqp_url: str, redis_url: str, closed_port: int) -> None:
    broker, store = urlsplit(amqp_url).port, urlsplit(redis_url).port
    assert await report.of(f"amqps://guest:{PASSWORD}@127.0.0.1:{broker}/", f"redis://127.0.0.1:{broker}/0") == 2
    assert "does not use TLS" in report.line("broker")
    assert "not Redis: check the port" in report.line("store")
    assert await report.of(f"amqp://guest:{PASSWORD}@127.0.0.1:{closed_port}/", f"redis://127.0.0.1:{store}/99999") == 2
    assert f"nothing listens at 127.0.0.1:{closed_port}" in report.line("broker")
    assert "index is out of range" in report.line("store")


@asynccontextmanager
async def hanging_up() -> AsyncGenerator[int]:
    """A server that requires TLS closes connections of clients without TLS."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_a_timeout_is_explained() -> None:
    said = explained(TimeoutError(), f"amqp://guest:{PASSWORD}@host:6379/")
    assert said.startswith("host:6379 does not answer like RabbitMQ") and PASSWORD not in said


async def test_servers_that_require_tls(report: Report) -> None:
    async with hanging_up() as port:
        assert await report.of(f"amqp://guest:{PASSWORD}@127.0.0.1:{port}/", f"redis://127.0.0.1:{port}/0") == 2
    assert "TLS" in report.line("broker")
    assert "TLS" in report.line("store")


async def test_an_unknown_host(report: Report) -> None:
    host = "no-such-host.invalid"
    assert await report.of(f"amqp://guest:{PASSWORD}@{host}/", f"redis://{host}/0") == 2
    assert f"the host {host} is not known" in report.line("broker")
    assert host in report.line("store")


async def test_an_engine_url_with_a_password(report: Report, amqp_url: str, redis_url: str, closed_port: int) -> None:
    url = f"http://me:{PASSWORD}@127.0.0.1:{closed_port}/v1"
    await report.of(amqp_url, redis_url, engine="openai", engine_url=url)
    assert f"http://me@127.0.0.1:{closed_port}/v1 does not answer" in report.line("engine")


async def test_an_unusable_directory_for_files(
    report: Report, amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("files")
    await report.of(amqp_url, redis_url, files_dir=str(directory))
    assert report.line("files").startswith("ok") and str(directory) in report.line("files")
    await report.of(amqp_url, redis_url, files_dir="/proc/nowhere")
    assert report.line("files").startswith("BAD") and "files_dir" in report.line("files")
