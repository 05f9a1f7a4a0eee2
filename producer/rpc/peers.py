"""Reads the origin of gRPC calls: the peer's address, and traces of browsers."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from starlette.datastructures import Headers

from producer.http.edge.browser_guard import LocalNames
from shared.errors import IgniteError
from shared.settings import Settings


def address_of(peer: str) -> str:
    """Returns the address in a percent-encoded gRPC peer, such as `ipv4:127.0.0.1:4711` or `ipv6:[::1]:4711`."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].strip("[]")


def endpoint_of(peer: str) -> tuple[str, int]:
    """Returns the address and the port of a gRPC peer; port 0 for other kinds."""
    port = unquote(peer).rpartition(":")[2]
    return address_of(peer), int(port) if port.isdecimal() else 0


def browser_refusal(metadata: Mapping[str, str], settings: Settings) -> IgniteError | None:
    """Returns the refusal of a browser's call to a server without keys, as over HTTP; a proxy may translate to gRPC."""
    names = LocalNames(settings.keyless_hosts, any_address=not settings.on_loopback)
    return names.refusal(Headers(dict(metadata)), "POST", upload=True)
