"""What a call over gRPC tells of where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from starlette.datastructures import Headers

from producer.http.browser_guard import LocalNames
from shared.errors import IgniteError
from shared.settings import Settings


def address_of(peer: str) -> str:
    """The address in gRPC's name for a peer: `ipv4:127.0.0.1:4711`, `ipv6:[::1]:4711`, percent-encoded."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].strip("[]")


def browser_refusal(metadata: Mapping[str, str], settings: Settings) -> IgniteError | None:
    """As over HTTP, for a server without keys. Browsers cannot speak gRPC, but a proxy can translate for them."""
    names = LocalNames(settings.keyless_hosts, any_address=not settings.on_loopback)
    return names.refusal(Headers(dict(metadata)), "POST", upload=True)
