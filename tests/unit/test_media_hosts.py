"""Hosts of images are looked up within bounds, and those with a private address are refused."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from producer.admission import media_hosts
from producer.admission.media_hosts import LOOKUPS, LOOKUPS_OF_TENANT, MediaHosts
from shared.errors import InvalidRequest, Unavailable
from tests.support.wait_until import wait_until

PARAM = "messages[0].content[0].image_url.url"


class Zone:
    """What a DNS server says. A host without an entry is answered when `release` is set."""

    def __init__(self, **entries: Sequence[str] | socket.gaierror) -> None:
        self.entries = entries
        self.asked: list[str] = []
        self.release = asyncio.Event()

    async def look_up(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.entries:
            await self.release.wait()
            return ["1.1.1.1"]
        answer = self.entries[host]
        if isinstance(answer, socket.gaierror):
            raise answer
        return answer


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["169.254.169.254"], ["::1"], ["64:ff9b::a00:1"], ["fe80::1%eth0"], []],
)
async def test_a_host_with_a_private_address_is_refused(addresses: list[str]) -> None:
    hosts = MediaHosts(Zone(inside=addresses).look_up)
    with pytest.raises(InvalidRequest) as caught:
        await hosts.check({"inside": PARAM}, "alice")
    assert caught.value.param == PARAM


async def test_a_public_host_is_looked_up_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = Zone(outside=["1.1.1.1", "2606:4700::1111"])
    hosts = MediaHosts(zone.look_up)
    for _ in range(3):
        await hosts.check({"outside": PARAM}, "alice")
    assert zone.asked == ["outside"]
    monkeypatch.setattr(media_hosts, "FRESH", 0.0)
    zone.entries["outside"] = ["127.0.0.1"]
    with pytest.raises(InvalidRequest):
        await hosts.check({"outside": PARAM}, "alice")


async def test_an_unknown_host_is_the_clients_fault_and_a_silent_server_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zone = Zone(unknown=socket.gaierror(socket.EAI_NONAME, ""), broken=socket.gaierror(socket.EAI_AGAIN, ""))
    hosts = MediaHosts(zone.look_up)
    with pytest.raises(InvalidRequest):
        await hosts.check({"unknown": PARAM}, "alice")
    with pytest.raises(Unavailable):
        await hosts.check({"broken": PARAM}, "alice")
    monkeypatch.setattr(media_hosts, "TIMEOUT", 0.05)
    with pytest.raises(Unavailable):
        await hosts.check({"silent": PARAM}, "alice")
    zone.release.set()


async def test_silent_lookups_of_a_tenant_leave_room_for_others() -> None:
    zone = Zone(outside=["1.1.1.1"])
    hosts = MediaHosts(zone.look_up)
    waiting = [asyncio.create_task(hosts.check({f"silent-{n}": PARAM}, "mallory")) for n in range(3 * LOOKUPS)]
    await wait_until(lambda: len(zone.asked) == LOOKUPS_OF_TENANT, "mallory's lookups to begin")
    await hosts.check({"outside": PARAM}, "alice")
    assert len(zone.asked) == LOOKUPS_OF_TENANT + 1
    zone.release.set()
    await asyncio.gather(*waiting)


async def test_the_resolver_of_the_machine_is_asked() -> None:
    hosts = MediaHosts()
    with pytest.raises(InvalidRequest):
        await hosts.check({"localhost": PARAM}, "alice")
    hosts.close()
