"""Failures are counted and limited by address, in bounded memory, and keys are in no line of the log."""

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from producer.auth import failed_attempts
from producer.auth.failed_attempts import BURST, REFILL, FailedAuthentications, network_of
from producer.rpc.peers import address_of
from shared.errors import AuthenticationFailed, RateLimited

UNKNOWN = AuthenticationFailed("The API key is not known here.")


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that only moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(failed_attempts.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def limited(attempts: FailedAuthentications, peer: str, *, with_key: bool = True) -> bool:
    return isinstance(attempts.note(peer, UNKNOWN, with_key=with_key), RateLimited)


def test_an_address_has_its_wrong_keys_and_gets_them_back_with_time(wait: Callable[[float], None]) -> None:
    attempts = FailedAuthentications()
    assert [limited(attempts, "192.0.2.1") for _ in range(BURST + 5)] == [False] * BURST + [True] * 5
    assert not limited(attempts, "192.0.2.2")
    wait(3 / REFILL)
    assert [limited(attempts, "192.0.2.1") for _ in range(4)] == [False] * 3 + [True]
    wait(10 * BURST / REFILL)
    assert [limited(attempts, "192.0.2.1") for _ in range(BURST + 1)] == [False] * BURST + [True]


def test_the_answer_says_when_to_come_again(wait: Callable[[float], None]) -> None:
    attempts = FailedAuthentications()
    for _ in range(BURST):
        attempts.note("192.0.2.1", UNKNOWN, with_key=True)
    refusal = attempts.note("192.0.2.1", UNKNOWN, with_key=True)
    assert (refusal.code, refusal.retry_after) == ("too_many_failed_authentications", 1 / REFILL)


def test_calls_without_a_key_guess_nothing(wait: Callable[[float], None]) -> None:
    attempts = FailedAuthentications()
    assert not any(limited(attempts, "192.0.2.1", with_key=False) for _ in range(10 * BURST))
    assert not limited(attempts, "192.0.2.1")


def test_answers_are_held_back_beyond_the_burst_with_a_key_or_without(wait: Callable[[float], None]) -> None:
    attempts = FailedAuthentications()
    for with_key in (True, False):
        held: list[bool] = []
        for _ in range(BURST + 2):
            limited(attempts, "192.0.2.1", with_key=with_key)
            held.append(attempts.exceeded("192.0.2.1", with_key=with_key))
        assert held == [False] * BURST + [True] * 2
        assert not attempts.exceeded("192.0.2.2", with_key=with_key)
    wait(1 / REFILL)
    limited(attempts, "192.0.2.1")
    assert not attempts.exceeded("192.0.2.1", with_key=True)


def test_a_network_of_ipv6_is_one_address(wait: Callable[[float], None]) -> None:
    attempts = FailedAuthentications()
    answers = [limited(attempts, f"2001:db8:0:1::{number:x}") for number in range(BURST + 1)]
    assert answers[-1]
    assert not limited(attempts, "2001:db8:0:2::1")


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, "unknown"),
        ("", "unknown"),
        ("unix", "unknown"),
    ],
)
def test_networks(peer: str | None, network: str) -> None:
    assert network_of(peer) == network


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("unix:/tmp/x", ""),
        ("", ""),
    ],
)
def test_peers_of_grpc(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_addresses_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_attempts, "REMEMBERED", 100)
    attempts = FailedAuthentications()
    for number in range(1000):
        attempts.note(f"10.0.{number >> 8}.{number & 255}", UNKNOWN, with_key=True)
    assert len(attempts._by_address) == 100  # pyright: ignore[reportPrivateUsage]


def test_a_flood_is_a_line_now_and_then_and_counted_whole(wait: Callable[[float], None]) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("ignite_auth_failures_total", {"reason": "unknown_key"}) or 0

    attempts, before = FailedAuthentications(), counted()
    with capture_logs() as lines:
        for _ in range(1000):
            attempts.note("192.0.2.1", UNKNOWN, with_key=True)
        wait(failed_attempts.LOG_EVERY)
        attempts.note("192.0.2.1", UNKNOWN, with_key=True)
    assert counted() - before == 1001
    assert [(line["event"], line["address"], line["times"]) for line in lines] == [
        ("auth.failed", "192.0.2.1", 1),
        ("auth.failed", "192.0.2.1", 1000),
    ]
