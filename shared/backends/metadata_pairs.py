"""The pairs of a job's metadata by which lists find it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

OWN = frozenset({"custom_id"})
"""Names whose values are each a job's own (a batch gives every line one): an index of them would be as large as the
jobs, and other pairs lead there as well.
"""


def indexed(metadata: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    return [pair for pair in metadata.items() if pair[0] not in OWN]


def digests(tenant: str, metadata: Mapping[str, str], *, stored: bool) -> Sequence[bytes]:
    """What stands for each pair in an index, apart for stored jobs. Two pairs may have the same, though hardly ever."""
    return [digest(tenant, stored, *pair) for pair in indexed(metadata)]


def all_digests(tenant: str, metadata: Mapping[str, str], *, stored: bool) -> Sequence[bytes]:
    """Where a job with that metadata is: among all, and among the stored ones if it is one."""
    kinds = (False, True) if stored else (False,)
    return [each for kind in kinds for each in digests(tenant, metadata, stored=kind)]


def digest(tenant: str, stored: bool, name: str, value: str) -> bytes:
    text = "\0".join((tenant, str(int(stored)), name, value))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
