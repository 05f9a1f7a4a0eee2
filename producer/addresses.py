"""Decides which hosts and addresses are on the public internet. Pure: makes no DNS lookups.

A client's URL is checked by its host after the HTTP client's normalisation (IDNA, NFKC), not by its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from yarl import URL

MAX_URL = 2048
"""Characters."""

MAX_HOST = 253

LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label that makes resolvers read the host as an IPv4 address, in whatever form (127.1, 0x7f000001)."""

LOCAL_NAMES = ("localhost", "localdomain", "local", "internal", "intranet", "lan", "home.arpa", "onion")
"""Domains that do not exist in the public DNS, nor do names below them."""

NOT_PUBLIC = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's host
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
            "2001::/23",  # Teredo among them
            "2001:db8::/32",
            "2002::/16",  # 6to4
            "3ffe::/16",
            "3fff::/20",
        ),
    )
)
GLOBAL_IPV6 = ip_network("2000::/3")
"""All assigned public addresses. Others are local, or stand for an IPv4 address (mapped, SIIT, NAT64)."""

ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""The third 32 bits of an ISATAP address. The last 32 bits are the IPv4 address to which it is routed."""

USUAL_PORTS = frozenset({80, 443})
OTHER_PORTS = range(1024, 65536)


@dataclass(frozen=True, slots=True)
class Target:
    """An http or https URL that may be connected to. `url` is normalised; `host` is its host without a last dot."""

    url: URL
    host: str


def target_of(url: str) -> Target | str:
    """Returns the URL's target, or the reason why the URL is not accepted. Accepts private addresses."""
    if not url.isprintable() or len(url) > MAX_URL or any(character in url for character in " \\"):
        return f"expected an http or https URL of at most {MAX_URL} characters"
    try:
        parsed = URL(url)
        port, host = parsed.port, (parsed.raw_host or "").lower()
    except (ValueError, IndexError):  # yarl raises IndexError for an empty host.
        return "it is not a URL"
    if parsed.scheme not in ("http", "https") or not host or not port:
        return f"expected an http or https URL of at most {MAX_URL} characters"
    if "@" in authority_of(url):
        return "it has a user or a password in front of its host"
    host = host.removesuffix(".")
    if not is_plain(host) or is_disguised(url, host) or (":" in host) != authority_of(url).startswith("["):
        return "its host is not a plain name or address"
    return Target(parsed, host)


def is_plain(host: str) -> bool:
    """Whether the normalised host is a DNS name or an address in its usual form."""
    if address_of(host) is not None:
        return "%" not in host
    labels = host.split(".")
    return len(host) <= MAX_HOST and all(map(LABEL.fullmatch, labels)) and not NUMBER.fullmatch(labels[-1])


def is_disguised(url: str, host: str) -> bool:
    """Whether the URL spells an ASCII host with other characters (fullwidth or circled letters, other dots)."""
    return not authority_of(url).isascii() and not any(label.startswith("xn--") for label in host.split("."))


def authority_of(url: str) -> str:
    """Returns the URL's authority as the client wrote it."""
    return re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]


def is_public(host: str) -> bool:
    """Whether the host may be on the public internet. A name may still resolve to a private address, so callers check
    the resolved addresses too.
    """
    host = host.lower().removesuffix(".")
    if (address := address_of(host)) is not None:
        return is_public_address(address)
    local = any(host == name or host.endswith(f".{name}") for name in LOCAL_NAMES)
    return is_plain(host) and "." in host and not local


def is_public_address(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address not in GLOBAL_IPV6 or address.scope_id is not None:
            return False
        if (int(address) >> 32) & 0xFFFFFFFF in ISATAP:
            return False
    return address.is_global and not any(address in network for network in NOT_PUBLIC)


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def private_fault(target: Target) -> str | None:
    """Returns why the target is not on the public internet, as far as the URL shows it, or None."""
    if not is_public(target.host):
        return "its host is private, and this server connects only to public addresses"
    if target.url.port not in USUAL_PORTS and target.url.port not in OTHER_PORTS:
        return "its port belongs to another service: expected 80, 443, or one above 1023"
    return None
