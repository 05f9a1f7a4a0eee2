"""A tenant's requests that arrive at once start a few at a time; another tenant's does not wait for them."""

import asyncio

from producer.http.edge.tenant_calls import STARTS, Turns
from tests.support.wait_until import wait_until


async def test_many_requests_of_a_tenant_start_over_many_iterations() -> None:
    turns, started = Turns(), 0

    async def request(tenant: str) -> None:
        nonlocal started
        if (turn := turns.take(tenant)) is not None:
            await turn
        started += tenant == "mallory"

    requests = [asyncio.create_task(request("mallory")) for _ in range(20 * STARTS)]
    await asyncio.sleep(0)
    assert started == STARTS
    assert turns.take("alice") is None
    requests[-1].cancel()
    while started < len(requests) - 1:
        before = started
        await asyncio.sleep(0)
        assert started - before <= STARTS
    await wait_until(lambda: turns.take("mallory") is None, "turns to be free again")
