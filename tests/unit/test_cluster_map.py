"""What a cluster's node says of who has what, and the way to a node."""

from typing import Any

import pytest

from shared.backends.redis.connection.cluster import Address, read_map, url_at

ASKED = Address("10.0.0.1", 7000)


def slots(*nodes: tuple[bytes | None, int]) -> list[Any]:
    return [0, 99, *([host, port, b"id", []] for host, port in nodes)]


def test_who_has_what() -> None:
    found = read_map([slots((b"10.0.0.2", 7001), (b"10.0.0.3", 7002)), [200, 201, [b"b.example", 7003, b"id"]]], ASKED)
    assert found.owners == {range(100): Address("10.0.0.2", 7001), range(200, 202): Address("b.example", 7003)}
    assert found.replicas == {Address("10.0.0.3", 7002)}
    assert len(found.everyone) == 3


@pytest.mark.parametrize("host", [b"", b"?", None])
def test_a_node_that_does_not_know_its_name_has_the_one_it_was_asked_by(host: bytes | None) -> None:
    assert read_map([slots((host, 7001))], ASKED).owners == {range(100): Address("10.0.0.1", 7001)}


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        ("redis://a:1", "redis://b:2"),
        ("redis://a", "redis://b:2"),
        ("rediss://user:p%40ss@a:1/0?ssl_cert_reqs=none", "rediss://user:p%40ss@b:2/0?ssl_cert_reqs=none"),
    ],
)
def test_the_way_in_is_the_same_at_every_node(seed: str, expected: str) -> None:
    assert url_at(seed, Address("b", 2)) == expected


def test_an_address_of_version_six() -> None:
    assert url_at("redis://:secret@[::1]:1", Address("fd00::2", 2)) == "redis://:secret@[fd00::2]:2"
