"""The servers start when the first test asks for them and end with the run. Where tests run in several processes, each
has servers of its own.
"""

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support.chat import Gate
from tests.support.rabbitmq import RabbitMQ, find_rabbitmq, rabbitmq_in_docker, rabbitmq_on_this_machine
from tests.support.redis import Redis, find_redis, redis_in_docker, redis_on_this_machine
from tests.support.redis_cluster import RedisCluster
from tests.support.s3 import S3

DOCKER = os.environ.get("IGNITE_TEST_DOCKER") == "1"
CI = os.environ.get("CI", "").lower() in {"1", "true"}
# How long it takes to think of an example says something about the machine and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# A shell without job control starts commands in the background with SIGINT ignored, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As `shared/logs.py` prints them: structlog's own tracebacks take seconds each.
console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], console])

S = TypeVar("S", RabbitMQ, Redis, RedisCluster)
IS_MISSING = "is missing: install it, or set IGNITE_TEST_DOCKER=1 where a Docker engine runs"
LONGEST_FIRST = ("chaos", "console", "faults", "system")
"""Directories whose tests take seconds each: begun last, one would keep all but one process waiting at the end."""


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    yield from _run(_rabbitmq(tmp_path_factory.mktemp("rabbitmq")))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    yield from _run(_redis(tmp_path_factory.mktemp("redis")))


@pytest.fixture(scope="session")
def redis_cluster_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    yield from _run(RedisCluster(redis_launcher(), tmp_path_factory.mktemp("redis-cluster")))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3"))
    try:
        _finish(server.start())
        yield server
    finally:
        _finish(server.close())


@pytest.fixture
def vhost(rabbitmq_server: RabbitMQ) -> Iterator[str]:
    """A virtual host for this test alone."""
    _finish(rabbitmq_server.ensure_running())
    name = rabbitmq_server.create_vhost()
    yield name
    _finish(rabbitmq_server.ensure_running())
    rabbitmq_server.delete_vhost(name)


@pytest.fixture
def amqp_url(rabbitmq_server: RabbitMQ, vhost: str) -> str:
    return rabbitmq_server.url(vhost)


@pytest.fixture
def redis_database(redis_server: Redis) -> int:
    _finish(redis_server.ensure_running())
    return redis_server.fresh_database()


@pytest.fixture
def redis_url(redis_server: Redis, redis_database: int) -> str:
    return redis_server.url(redis_database)


@pytest.fixture
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate") / "open")


@pytest.fixture
def settled_redis(redis_server: Redis, redis_url: str) -> None:
    """The test may ask who lives."""
    _finish(redis_server.settled())


@pytest.fixture
def redis_cluster(redis_cluster_servers: RedisCluster) -> RedisCluster:
    """Three primaries, with nothing in them, that may be asked who lives."""
    _finish(redis_cluster_servers.ensure_running())
    for node in redis_cluster_servers.nodes:
        _finish(node.settled())
    redis_cluster_servers.forget()
    return redis_cluster_servers


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After the shuffle: of several processes each is dealt a stretch of the list, with its share of the long ones
    first.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count > 1:
        ordered = sorted(items, key=lambda item: item.path.parent.name not in LONGEST_FIRST)
        items[:] = [item for process in range(count) for item in ordered[process::count]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = {str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())}
    if any("vLLM is missing" in reason for reason in reasons):
        terminalreporter.write_line("NOT TESTED: vLLM, for which there is `make test-vllm`.", red=True, bold=True)
    for name in ("RabbitMQ", "Redis", "npm", "chromium"):
        if not any(f"{name} {IS_MISSING}" in reason for reason in reasons):
            continue
        terminalreporter.write_line(
            f"NOT TESTED: {name} is missing, and so every test that needs it was left out.",
            red=True,
            bold=True,
        )


def _rabbitmq(directory: Path) -> RabbitMQ:
    if launcher := find_rabbitmq():
        return rabbitmq_on_this_machine(launcher, directory)
    return rabbitmq_in_docker(directory) if DOCKER else missing("RabbitMQ")


def _redis(directory: Path) -> Redis:
    if launcher := find_redis():
        return redis_on_this_machine(launcher, directory)
    return redis_in_docker() if DOCKER else missing("Redis")


def redis_launcher() -> str:
    """For a cluster, whose nodes must find each other: in containers of their own they would not."""
    if DOCKER and find_redis() is None:
        pytest.skip("a Redis Cluster is tested where redis-server is installed")
    return find_redis() or missing("Redis")


def missing(name: str) -> NoReturn:
    """A laptop may do without; CI may not."""
    reason = f"{name} {IS_MISSING}"
    if CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _run(server: S) -> Iterator[S]:
    try:
        _finish(server.start())
        yield server
    finally:
        _finish(server.close())


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """In a loop of its own that leaves the tests' loop policy as it is."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(work)
