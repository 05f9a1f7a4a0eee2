"""A short campaign finds no violation in Ignite, and finds the missing safeguard in broken builds."""

import pytest

from tests.chaos.campaign import Options, run
from tests.chaos.report import plan_lines, report_lines
from tests.chaos.wires import Servers
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis


@pytest.fixture
def servers(rabbitmq_server: RabbitMQ, vhost: str, redis_server: Redis, redis_database: int) -> Servers:
    return Servers(rabbitmq_server, redis_server, vhost, redis_database)


async def violations_of(options: Options, servers: Servers) -> list[str]:
    findings = await run(options, servers, print)
    print("\n".join([*plan_lines(options), *report_lines(findings)]))
    assert findings.ledger.struck, "nothing was tried"
    return findings.violations


@pytest.mark.timeout(400)
async def test_jobs_and_streams_outlive_a_short_campaign(servers: Servers) -> None:
    assert await violations_of(Options(seed=4, seconds=20), servers) == []


@pytest.mark.timeout(400)
async def test_a_build_that_lets_zombies_write_is_found_out(servers: Servers) -> None:
    violations = await violations_of(Options(seed=1, seconds=12, build="fencing-off", patience=20), servers)
    assert any("wrote again after another" in each for each in violations)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_a_build_that_acknowledges_first_is_found_to_lose_jobs(servers: Servers) -> None:
    violations = await violations_of(Options(seed=1, seconds=8, build="ack-first", patience=8), servers)
    assert any("never ended" in each for each in violations)
