"""The Lua steps: each function builds one call of `lua/<name>.lua` and is the only place in Python that knows the order
of its KEYS and ARGV. Each Lua file names its ARGV in the same order in its first line of code.

Times to live and delays are in milliseconds where the name ends in `_ms`, other times in seconds. Statuses are lists
separated by commas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from shared.backends.redis import keys
from shared.backends.redis.connection.gathering import Argument
from shared.backends.redis.connection.scripts import LuaStep
from shared.fairness import Entry
from shared.limits import Limits
from shared.ports import Progress

LATEST_DEADLINE = 9_999_999_999.0
"""Unix seconds: the latest whose milliseconds have 13 digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBytes:
    """The bytes that `create` counts for a job: its last ARGV, in this order."""

    account: str
    held: int
    bucket: int
    record: int
    room: int
    apart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedBytes:
    """The bytes that `index` counts for a job: its last ARGV, in this order. `limit` 0: unlimited."""

    bucket: int
    held: int
    limit: int


def create(
    job_id: str,
    *,
    spec: bytes,
    mode: str,
    retention: float,
    deadline_at: float,
    ttl_ms: int,
    follower: str,
    body: bytes,
    queue: str,
    created_at: float,
    detached: bool,
    keeps_request: bool,
    restored: bool,
    webhook: bool,
    limit_key: str,
    kept: RecordBytes,
) -> LuaStep:
    flags = (int(detached), int(keeps_request), int(restored), int(webhook))
    times = (retention, deadline_at, ttl_ms)
    account = (kept.account, kept.held, kept.bucket, kept.record, kept.room, int(kept.apart))
    arguments = (spec, mode, *times, follower, body, queue, created_at, *flags, limit_key, *account)
    return LuaStep("create", keys.of_job(job_id), arguments)


def index(
    names: Sequence[str],
    *,
    member: str,
    score: float,
    ttl_ms: int,
    oldest: str = "",
    counted: CountedBytes | None = None,
) -> LuaStep:
    """With `counted`, the last of `names` is the tenant's account. `oldest`: the lowest member to keep."""
    account = () if counted is None else astuple(counted)
    return LuaStep("index", names, (member, score, ttl_ms, oldest, *account))


def claim(
    job_id: str, *, worker: str, lease_seconds: float, lost_owner: str, claimable: str, with_body: bool
) -> LuaStep:
    arguments = (job_id, worker, lease_seconds, lost_owner, claimable, int(with_body))
    return LuaStep("claim", keys.of_job(job_id), arguments)


def renew(job_id: str, *, attempt: int, lease_seconds: float) -> LuaStep:
    return LuaStep("renew", [keys.job(job_id)], (attempt, lease_seconds))


def release(job_id: str, *, attempt: int, counted: bool, releasable: str, delay: float) -> LuaStep:
    return LuaStep("release", [keys.job(job_id)], (job_id, attempt, int(counted), releasable, delay))


def finish(
    job_id: str,
    *,
    attempt: int,
    offset: int,
    frames: bytes,
    frame_count: int,
    new_status: str,
    header: bytes,
    result: bytes,
    endable: str,
) -> LuaStep:
    arguments = (job_id, attempt, offset, frames, frame_count, new_status, header, result, endable)
    return LuaStep("finish", keys.of_job(job_id), arguments)


def end_unclaimed(
    job_id: str, *, dead_owner: str, frames: bytes, frame_count: int, new_status: str, header: bytes, endable: str
) -> LuaStep:
    arguments = (job_id, dead_owner, frames, frame_count, new_status, header, endable)
    return LuaStep("end_unclaimed", keys.of_job(job_id), arguments)


def cancel(job_id: str, *, cancellable: str) -> LuaStep:
    return LuaStep("cancel", [keys.job(job_id)], (cancellable,))


def retry(job_id: str, *, deadline_at: float, ttl_ms: int, queued_at: float, retriable: str, room: int) -> LuaStep:
    return LuaStep("retry", keys.of_job(job_id), (job_id, deadline_at, ttl_ms, queued_at, retriable, room))


def requeued(job_id: str, *, at: float, open_statuses: str) -> LuaStep:
    return LuaStep("requeued", [keys.job(job_id)], (at, open_statuses))


def discard(job_id: str, *, tombstone_ms: int | None) -> LuaStep:
    return LuaStep("discard", keys.of_job(job_id), ("" if tombstone_ms is None else tombstone_ms,))


def tombstone(job_id: str, *, ttl_ms: int) -> LuaStep:
    return LuaStep("tombstone", [keys.job(job_id)], (ttl_ms,))


def describe(job_id: str, *, metadata: bytes) -> LuaStep:
    return LuaStep("describe", [keys.job(job_id)], (metadata,))


def reattach(job_id: str, *, open_statuses: str, known_followers: str) -> LuaStep:
    return LuaStep("reattach", [keys.job(job_id)], (open_statuses, known_followers))


def reserve(job_id: str, *, attempt: int, room: int, granted: bool = False) -> LuaStep:
    return LuaStep("reserve", [keys.job(job_id)], (attempt, room, 1 if granted else ""))


def append_arguments(
    job_id: str, *, attempt: int, offset: int, frames: bytes, frame_count: int, progress: Progress | None
) -> tuple[Argument, ...]:
    """Returns the ARGV of one append. A step may contain several appends, one after the other."""
    recorded = (0, b"") if progress is None else (progress.offset, progress.data)
    return (job_id, attempt, offset, frames, frame_count, *recorded)


def append(job_id: str, arguments: tuple[Argument, ...]) -> LuaStep:
    """Names the key of the progress only where there is one: a cluster that moves a slot waits for missing keys."""
    names = keys.of_job(job_id)[:2]
    return LuaStep("append", names if arguments[-1] == b"" else (*names, keys.progress(job_id)), arguments)


def follow(job_id: str, *, replica: str, offset: int, limit: int) -> LuaStep:
    return LuaStep("follow", keys.of_job(job_id)[:2], (replica, offset, limit))


def unfollow(job_id: str, *, replica: str) -> LuaStep:
    return LuaStep("unfollow", [keys.job(job_id)], (replica,))


def idempotency_key_claim(name: str, *, value: bytes, ttl_ms: int, replaceable: bytes = b"") -> LuaStep:
    return LuaStep("idempotency_key_claim", [name], (value, ttl_ms, replaceable))


def move_kept_bytes(
    account: str, *, bucket: Argument, held: Argument, new_bucket: Argument, new_held: Argument, limited: bool
) -> LuaStep:
    return LuaStep("move_kept_bytes", [account], (bucket, held, new_bucket, new_held, int(limited)))


def limit_take(
    key: str, limits: Limits, *, job_id: str, tokens: int, until: float, batch_share: float | None
) -> LuaStep:
    """`batch_share`: for a line of a batch, the share of the key's tokens that lines may use."""
    bounds = (limits.requests_per_minute or 0, limits.tokens_per_minute or 0, limits.concurrency or 0)
    share = "" if batch_share is None else batch_share
    return LuaStep("limit_take", keys.of_limits(key), (job_id, tokens, until, *bounds, share))


def limit_charge(key: str, *, job_id: str, used: int | None, refunded: bool = False) -> LuaStep:
    """`used`: tokens; None: the estimate stands. `refunded`: the job was never accepted."""
    return LuaStep("limit_charge", keys.of_limits(key), (job_id, "" if used is None else used, int(refunded)))


def outbox_add(*, job_id: str, due_in_ms: int, ttl_ms: int) -> LuaStep:
    return LuaStep("outbox_add", [keys.OUTBOX], (job_id, due_in_ms, ttl_ms))


def outbox_take(*, limit: int, hold_ms: int) -> LuaStep:
    return LuaStep("outbox_take", [keys.OUTBOX], (limit, hold_ms))


def outbox_put_back(*, job_id: str, held_until_ms: int, due_in_ms: int | None) -> LuaStep:
    """`due_in_ms`: None removes the job."""
    return LuaStep("outbox_put_back", [keys.OUTBOX], (job_id, held_until_ms, "" if due_in_ms is None else due_in_ms))


def document_put(names: Sequence[str], *, id: str, read_version: int, value: bytes, ttl_ms: int) -> LuaStep:
    return LuaStep("document_put", names, (id, read_version, value, ttl_ms))


def document_delete(names: Sequence[str], *, id: str, read_version: int) -> LuaStep:
    return LuaStep("document_delete", names, (id, read_version))


def fair_queue_add(names: Sequence[str], *, job_id: str, position: float, ttl_ms: int, entry: Entry) -> LuaStep:
    deadline = f"{int(min(entry.deadline, LATEST_DEADLINE) * 1000):013d}"
    order = (entry.tokens, entry.weight, deadline, "w" if entry.windowed else "-", entry.tenant)
    return LuaStep("fair_queue_add", names, (job_id, position, ttl_ms, *order))


def fair_queue_start(names: Sequence[str], *, job_id: str) -> LuaStep:
    return LuaStep("fair_queue_start", names, (job_id,))


def fair_queue_requeue(names: Sequence[str], *, job_id: str, position: float, due_at: float) -> LuaStep:
    """`due_at`: when the job may start, in Unix seconds; 0: at once."""
    return LuaStep("fair_queue_requeue", names, (job_id, position, due_at))


def fair_queue_remove(names: Sequence[str], *, job_id: str, used_tokens: int | None) -> LuaStep:
    return LuaStep("fair_queue_remove", names, (job_id, "" if used_tokens is None else used_tokens))


def fair_queue_next(names: Sequence[str], *, job_id: str, served: str | None, at: float) -> LuaStep:
    return LuaStep("fair_queue_next", names, (job_id, served or "", at))


def fair_queue_position(names: Sequence[str], *, job_id: str) -> LuaStep:
    return LuaStep("fair_queue_position", names, (job_id,))


def fair_queue_backlog(names: Sequence[str], *, tenant: str) -> LuaStep:
    return LuaStep("fair_queue_backlog", names, (tenant,))
