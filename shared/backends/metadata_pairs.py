"""The metadata pairs of a job that are indexed. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

OWN = frozenset({"custom_id"})
"""Names that are not indexed, because almost every job has another value: a batch sets one for each line. An index
would be as large as the list of jobs.
"""


def indexed(metadata: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    return [pair for pair in metadata.items() if pair[0] not in OWN]


def digests(tenant: str, metadata: Mapping[str, str], *, stored: bool) -> Sequence[bytes]:
    """Returns the index key of each pair. Stored jobs have keys of their own. Two pairs rarely have the same key."""
    return [digest(tenant, stored, *pair) for pair in indexed(metadata)]


def all_digests(tenant: str, metadata: Mapping[str, str], *, stored: bool) -> Sequence[bytes]:
    """Returns the index keys that list a job: for all jobs, and for stored jobs if it is stored."""
    kinds = (False, True) if stored else (False,)
    return [each for kind in kinds for each in digests(tenant, metadata, stored=kind)]


def digest(tenant: str, stored: bool, name: str, value: str) -> bytes:
    text = "\0".join((tenant, str(int(stored)), name, value))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
