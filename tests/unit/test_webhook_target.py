"""Where webhooks may go."""

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from producer.addresses import is_public, target_of
from producer.webhooks.target import (
    LOOKUPS,
    NotPublic,
    PublicAddresses,
    fault_of,
    host_of,
    public_socket,
    webhook_refusal,
)
from shared.settings import Settings
from tests.support.wait_until import wait_until

SECRET = "whsec_" + "A" * 32
PRIVATE = (
    "127.0.0.1",
    "127.255.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2001::7f00:1",
    "2001:db8::1",
    "2606:4700::5efe:7f00:1",
    "2606:4700::1%eth0",
    "fd00:ec2::254",
    "192.0.0.192",
    "192.88.99.1",
    "168.63.129.16",
    "100.100.100.200",
    "240.0.0.1",
    "127.1",
    "127.0.0.01",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "127.0.0.0x1",
    "2130706433",
    "127.0.0.1.",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "a.localhost",
    "printer.local",
    "metadata.google.internal",
    "redis",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_known_in_every_disguise(address: str) -> None:
    assert not is_public(address)
    host = f"[{address}]" if ":" in address else address
    assert fault_of(f"http://{host}:8080/x", private_allowed=False)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "example.com", "example.com."]
)
def test_public_ones_are_not_refused(address: str) -> None:
    assert is_public(address)
    host = f"[{address}]" if ":" in address else address
    assert fault_of(f"https://{host}/x", private_allowed=False) is None


@pytest.mark.parametrize(
    "host",
    [
        "127。0。0。1",
        "１２７.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127．0．0．1",
        "127｡0｡0｡1",
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "ｌｏｃａｌｈｏｓｔ",
        "localhost。",
        "１０.0.0.1",
        "[fe80::1%25eth0]",
        "127.0.0%2e1",
        "127.0.0.1%00.example.com",
        "example..com",
        "-example.com",
        "user@example.com",
        "user:secret@127.0.0.1",
        "example.com\\@127.0.0.1",
        "@example.com",
        "x" * 64 + ".com",
        "example.com:0",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[v1.fe]",
        "[127.0.0.1]",
        ".example.com",
        "example.com..",
        "0",
    ],
)
@pytest.mark.parametrize("private_allowed", [True, False])
def test_a_host_that_is_not_plain_is_refused_whatever_it_leads_to(host: str, private_allowed: bool) -> None:
    assert fault_of(f"http://{host}/", private_allowed=private_allowed)
    assert host_of(f"http://{host}/") is None


def test_names_of_other_scripts_are_plain() -> None:
    target = target_of("https://münchen。de/hook")
    assert not isinstance(target, str)
    assert (target.host, str(target.url)) == ("xn--mnchen-3ya.de", "https://xn--mnchen-3ya.de/hook")


@pytest.mark.parametrize(
    ("port", "fits"), [(80, True), (443, True), (8443, True), (22, False), (25, False), (1023, False)]
)
def test_ports_of_other_services_are_refused(port: int, fits: bool) -> None:
    assert (fault_of(f"http://example.com:{port}/", private_allowed=False) is None) is fits
    assert fault_of(f"http://example.com:{port}/", private_allowed=True) is None


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://example.com", "http://", "http:///x", "http://[", "http://a:b", "https://a/\n", "//a"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    assert fault_of(url, private_allowed=True)


def test_a_url_has_a_length() -> None:
    assert fault_of("http://example.com/" + "x" * 2048, private_allowed=True)
    assert fault_of("http://example.com/x", private_allowed=True) is None


class Found(AbstractResolver):
    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None: ...


async def test_names_lead_to_public_addresses_only() -> None:
    mixed = PublicAddresses(Found("10.0.0.1", "93.184.216.34", "::1"))
    assert [each["host"] for each in await mixed.resolve("example.com", 443)] == ["93.184.216.34"]
    with pytest.raises(OSError, match="no public address"):
        await PublicAddresses(Found("10.0.0.1", "127.0.0.1")).resolve("example.com", 443)


class Silent(Found):
    """Answers when it is told to."""

    def __init__(self, *addresses: str) -> None:
        super().__init__(*addresses)
        self.asked = 0
        self.gate = asyncio.Event()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        await self.gate.wait()
        return await super().resolve(host, port, family)


async def test_only_so_many_names_are_looked_up_at_a_time() -> None:
    """Also where nobody waits for them any more: each has its thread."""
    silent = Silent("93.184.216.34")
    addresses = PublicAddresses(silent)
    given_up = [asyncio.ensure_future(addresses.resolve("example.com", 443)) for _ in range(LOOKUPS)]
    await wait_until(lambda: silent.asked == LOOKUPS, "the first")
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    late = asyncio.ensure_future(addresses.resolve("example.com", 443))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert silent.asked == LOOKUPS
    silent.gate.set()
    assert len(await late) == 1
    assert silent.asked == LOOKUPS + 1


def test_no_socket_is_made_for_a_private_address() -> None:
    for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost"):
        with pytest.raises(NotPublic):
            public_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, 80)))
    public_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("93.184.216.34", 80))).close()


@pytest.mark.parametrize(
    ("host", "private", "url", "allowed"),
    [
        ("127.0.0.1", None, "http://localhost:1/x", True),
        ("127.0.0.1", False, "http://localhost:1/x", False),
        ("0.0.0.0", None, "http://127.0.0.1/x", False),
        ("0.0.0.0", None, "http://localhost/x", False),
        ("0.0.0.0", True, "http://127.0.0.1/x", True),
        ("0.0.0.0", None, "https://example.com/x", True),
    ],
)
def test_private_addresses_are_for_servers_on_loopback_or_by_setting(
    host: str, private: bool | None, url: str, allowed: bool
) -> None:
    settings = Settings(host=host, webhook_private=private, webhook_secret=SECRET)
    assert (webhook_refusal(url, background=True, settings=settings) is None) is allowed


def test_webhooks_need_a_secret_and_a_job() -> None:
    without = webhook_refusal("http://localhost/x", background=True, settings=Settings())
    assert without
    assert "webhook_secret" in without.message
    waiting = webhook_refusal("http://localhost/x", background=False, settings=Settings(webhook_secret=SECRET))
    assert waiting
    assert waiting.param == "webhook_url"
    assert webhook_refusal(None, background=False, settings=Settings()) is None


@pytest.mark.parametrize("url", ["http://[64:ff9b::7f00:1]@", "http://[::1]@/", "https://u[x]:p@:80/"])
def test_a_url_whose_host_is_missing_behind_brackets_is_refused(url: str) -> None:
    assert fault_of(url, private_allowed=False)
