"""Salts for prefix caches: one for each tenant, and none that tells whose it is."""

import asyncio

from shared.backends.embedded.backend import open_embedded
from tests.worker.scripted import open_bench
from worker.cache_salt import CacheSalt, open_cache_salt

SALT = CacheSalt(b"key")


def test_each_tenant_has_its_own_and_a_client_may_divide_it() -> None:
    salts = [SALT.of("alice"), SALT.of("bob"), SALT.of("alice", "a"), SALT.of("alice", "b"), SALT.of("bob", "a")]
    assert len(set(salts)) == len(salts)
    assert SALT.of("alice", "a") == SALT.of("alice", "a")
    assert CacheSalt(b"other").of("alice") != SALT.of("alice")
    assert not any("alice" in salt for salt in salts)
    assert SALT.of("al", "ice") != SALT.of("ali", "ce")


async def test_all_workers_have_one_key() -> None:
    async with open_embedded(None) as backend:
        salts = await asyncio.gather(*(open_cache_salt(backend.documents) for _ in range(5)))
        salts.append(await open_cache_salt(backend.documents))
        assert len({salt.of("alice") for salt in salts}) == 1


async def test_a_request_carries_its_tenants_salt_and_its_trace() -> None:
    async with open_bench() as bench:
        for own in (None, "mine"):
            for context in ({"cache_salt": SALT}, {"cache_salt": None}):
                bench.with_place(**context)
                await bench.submit("answer", tenant="alice", request={"cache_salt": own}, message={"traceparent": "t"})
                await bench.run()
        asked = bench.engine.requests
        assert [request.cache_salt for request in asked] == [SALT.of("alice"), None, SALT.of("alice", "mine"), None]
        assert {request.traceparent for request in asked} == {"t"}
        assert not any("cache_salt" in request for request in asked), "it is the engine's to send"
