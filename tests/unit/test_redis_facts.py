"""What is read from Redis's own words, and what follows from it."""

import pytest
from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError

from shared.backends.redis.connection.driver import is_away, unavailable
from shared.backends.redis.connection.durability import StoreFacts, facts_of, memory_of, refuse_eviction, store_warnings
from shared.settings import SettingsError

INFO = (
    b"# Server\r\nredis_version:7.0.15\r\n# Memory\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\n"
    b"# Persistence\r\naof_enabled:1\r\n"
)
GOOD = StoreFacts((7, 0, 15), "noeviction", 1000, saves=True)
FORBIDDEN = NoPermissionError("this user has no permissions to run the 'config|get' command")


def test_a_good_store_is_neither_refused_nor_warned_of() -> None:
    facts = facts_of(INFO, [b"save", b""])
    assert facts == GOOD
    refuse_eviction([facts])
    assert store_warnings([facts]) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lru", "volatile-ttl", "volatile-lfu"])
def test_every_policy_that_evicts_is_refused_on_any_node(policy: str) -> None:
    bad = facts_of(INFO.replace(b"noeviction", policy.encode()), [b"save", b""])
    with pytest.raises(SettingsError, match=rf"{policy}.*IGNITE_REDIS_EVICTION"):
        refuse_eviction([GOOD, bad])
    (warning,) = store_warnings([GOOD, bad])
    assert policy in warning


@pytest.mark.parametrize(
    ("info", "save", "told"),
    [
        (INFO.replace(b"maxmemory:1000", b"maxmemory:0"), [b"save", b""], "no maxmemory"),
        (INFO.replace(b"aof_enabled:1", b"aof_enabled:0"), [b"save", b""], "nothing on disk"),
        (INFO.replace(b"7.0.15", b"5.0.3"), [b"save", b""], "older than"),
        (FORBIDDEN, FORBIDDEN, "does not report"),
    ],
)
def test_what_an_operator_should_mend(info: object, save: object, told: str) -> None:
    (warning,) = store_warnings([facts_of(info, save)])
    assert told in warning


def test_a_server_that_forbids_config_is_not_accused_of_keeping_nothing() -> None:
    info = INFO.replace(b"aof_enabled:1", b"aof_enabled:0")
    assert store_warnings([facts_of(info, FORBIDDEN)]) == []
    assert facts_of(info, [b"save", b"3600 1 300 100"]).saves is True


def test_the_memory_of_a_cluster_is_that_of_all_its_nodes() -> None:
    assert memory_of([GOOD, GOOD]) == 2000
    assert memory_of([GOOD, StoreFacts(maxmemory=0)]) is None
    assert memory_of([]) is None


@pytest.mark.parametrize(
    "refusal",
    [
        OutOfMemoryError("OOM command not allowed when used memory > 'maxmemory'. script: 0ab1, on @user_script:1."),
        ResponseError("READONLY You can't write against a read only replica. script: 0ab1, on @user_script:1."),
        ResponseError("MISCONF Redis is configured to save RDB snapshots, script: 0ab1, on @user_script:1."),
    ],
)
def test_a_store_that_refuses_writes_is_told_of_in_one_sentence(refusal: ResponseError) -> None:
    assert is_away(refusal)
    error = unavailable(refusal)
    assert "new" in error.message
    assert "script" not in error.message
    assert error.retry_after
