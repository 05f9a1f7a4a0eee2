"""Checks whether Redis is configured to keep its data. All functions but `ask_store` are pure.

All of Ignite's keys in Redis have a time to live, so `volatile-…` policies evict jobs, logs and API keys just as
`allkeys-…` policies do. Ignite refuses to start with a store that evicts keys. It warns of a store that loses its data
when it is restarted, or that may grow without bound.

Managed servers often forbid CONFIG, and some forbid INFO. Unknown properties cause neither a refusal nor a warning,
except that a store whose eviction policy is unknown causes a warning.
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
"""Oldest supported version of Redis. The tests run on a newer one."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """The configuration of one server; None: unknown. `maxmemory`: in bytes, 0: unlimited; `policy`: maxmemory-policy;
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
    """Reads the configuration of each server that has keys. Raises BackendUnavailable if one does not answer."""
    info, save = await asyncio.gather(pipeline.all_owners("INFO"), pipeline.all_owners("CONFIG", "GET", "save"))
    for answer in info:
        if isinstance(answer, BackendUnavailable):
            raise answer
    return [facts_of(*each) for each in zip(info, save, strict=True)]


def facts_of(info: Any, save: Any) -> StoreFacts:
    """Decodes the answers to INFO and CONFIG GET save; either may be an error."""
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
    """Returns the sum of maxmemory in bytes, or None if a server has no bound or does not report it."""
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
    """Returns one sentence for each setting that an operator should change."""
    return [sentence for sentence, holds in findings(servers) if holds]


def findings(servers: Sequence[StoreFacts]) -> Sequence[tuple[str, bool]]:
    return (
        (
            f"Redis evicts keys when it is full (maxmemory-policy is {evicting(servers)}): API keys, jobs and "
            f"results may vanish. Set it to {SAFE_POLICY}.",
            evicting(servers) is not None,
        ),
        (
            "Redis has no maxmemory: it may grow until its machine is out of memory, and be killed. Set maxmemory: "
            f"with {SAFE_POLICY}, a full Redis refuses new jobs and keeps the others.",
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
            "Redis does not report its maxmemory-policy (INFO is forbidden for this user): check that it is "
            f"{SAFE_POLICY}, and that appendonly is yes.",
            any(server.policy is None for server in servers),
        ),
    )
