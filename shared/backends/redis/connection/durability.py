"""What Redis says of itself: whether it keeps what it is given. Pure, but for one function that asks.

Everything that Ignite keeps in Redis has a time to live, so each `volatile-…` policy evicts jobs, logs and API keys as
an `allkeys-…` one does. A store that evicts is refused at the start; one that may lose everything at its own restart,
or grow without a bound, is warned of.

Managed servers often forbid CONFIG, and some INFO. What cannot be told is neither refused nor warned of, but for a
store of which nothing at all can be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from shared.backends.redis.connection.pipeline import Pipeline
from shared.errors import BackendUnavailable
from shared.settings import SettingsError

SAFE_POLICY = "noeviction"
LEAST_VERSION = (6, 2)
"""Of Redis: what the tests run on is newer."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """One server's. None: it does not tell. `maxmemory` in bytes, 0: without a bound; `policy`: its maxmemory-policy;
    `saves`: whether it has save points or an append-only file.
    """

    version: tuple[int, ...] | None = None
    policy: str | None = None
    maxmemory: int | None = None
    saves: bool | None = None

    @property
    def evicts(self) -> bool:
        return self.policy is not None and self.policy != SAFE_POLICY


async def ask_store(pipeline: Pipeline) -> Sequence[StoreFacts]:
    """Of each server that has keys. Raises BackendUnavailable where one does not answer."""
    info, save = await asyncio.gather(pipeline.all_owners("INFO"), pipeline.all_owners("CONFIG", "GET", "save"))
    for answer in info:
        if isinstance(answer, BackendUnavailable):
            raise answer
    return [facts_of(*each) for each in zip(info, save, strict=True)]


def facts_of(info: Any, save: Any) -> StoreFacts:
    """From INFO's answer and that of CONFIG GET save; either may be an error."""
    if not isinstance(info, bytes):
        return StoreFacts()
    fields = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    return StoreFacts(
        version_of(fields.get("redis_version")),
        fields.get("maxmemory_policy"),
        number_of(fields.get("maxmemory")),
        saves=saves_of(fields, save),
    )


def saves_of(fields: Mapping[str, str], save: Any) -> bool | None:
    if fields.get("aof_enabled") == "1":
        return True
    if isinstance(save, Exception) or not save:
        return None
    points = cast(Sequence[bytes], save)  # Name and value, one after the other.
    return any(points[1::2]) if "aof_enabled" in fields else None


def version_of(text: str | None) -> tuple[int, ...] | None:
    parts = (text or "").split(".")[:3]
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else None


def number_of(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def memory_of(servers: Sequence[StoreFacts]) -> int | None:
    """Bytes that all of them may use together; None where one of them has no bound, or does not tell."""
    bounds = [server.maxmemory for server in servers]
    return sum(bound for bound in bounds if bound) if bounds and all(bounds) else None


def refuse_eviction(servers: Sequence[StoreFacts]) -> None:
    """Raises SettingsError where a server evicts."""
    if (policy := evicting(servers)) is not None:
        raise SettingsError(
            f"Redis evicts keys when it is full (maxmemory-policy is {policy}): API keys, jobs and results would "
            f"vanish. Set maxmemory-policy to {SAFE_POLICY}, or allow it with IGNITE_REDIS_EVICTION=true."
        )


def evicting(servers: Sequence[StoreFacts]) -> str | None:
    """The policy of the first server that evicts."""
    return next((server.policy for server in servers if server.evicts), None)


def store_warnings(servers: Sequence[StoreFacts]) -> Sequence[str]:
    """What an operator should mend, a sentence each."""
    return [sentence for sentence, holds in findings(servers) if holds]


def findings(servers: Sequence[StoreFacts]) -> Sequence[tuple[str, bool]]:
    return (
        (
            f"Redis evicts keys when it is full (maxmemory-policy is {evicting(servers)}): API keys, jobs and "
            f"results may vanish. Set it to {SAFE_POLICY}.",
            evicting(servers) is not None,
        ),
        (
            "Redis has no maxmemory: it grows until its machine is out of memory, and is then killed. Set maxmemory: "
            f"at {SAFE_POLICY} a full Redis refuses new jobs and keeps the others.",
            any(server.maxmemory == 0 for server in servers),
        ),
        (
            "Redis keeps nothing on disk (no append-only file, no save points): its restart loses all jobs, results "
            "and stored API keys. Set appendonly yes.",
            any(server.saves is False for server in servers),
        ),
        (
            f"Redis is older than {'.'.join(map(str, LEAST_VERSION))}, which Ignite is not tested with.",
            any(server.version is not None and server.version < LEAST_VERSION for server in servers),
        ),
        (
            "Redis does not tell its maxmemory-policy (INFO is forbidden to this user): see that it is "
            f"{SAFE_POLICY}, and that an append-only file is kept.",
            any(server.policy is None for server in servers),
        ),
    )
