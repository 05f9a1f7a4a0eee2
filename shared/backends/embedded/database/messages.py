"""The changes of a message in the embedded database. Each function runs in one transaction."""

from __future__ import annotations

import math
from typing import NamedTuple

import orjson

from shared.backends.embedded.database.transactions import Connection
from shared.backends.envelope import decode_envelope, encode_envelope
from shared.job import QueueName, Tier
from shared.ports import Message


class Stored(NamedTuple):
    """A message without its body and headers. `queue` is None for a dead letter."""

    seq: int
    queue: QueueName | None
    visible_at: float
    deadline_at: float


def add(db: Connection, message: Message) -> int:
    """Adds a message, and returns its number. Numbers grow in the order of arrival."""
    cursor = db.execute(
        "INSERT INTO messages (job_id, model, tier, deadline_at, envelope, body) VALUES (?, ?, ?, ?, ?, ?)",
        (
            *(message.job.id, message.job.model, message.job.tier, message.job.deadline_at),
            *(orjson.dumps(encode_envelope(message)).decode(), message.body),
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def read(db: Connection, seq: int) -> Message | None:
    row = db.execute("SELECT envelope, body FROM messages WHERE seq = ?", (seq,)).fetchone()
    return decode_envelope(orjson.loads(row[0]), row[1] or b"") if row else None


def load_all(db: Connection) -> list[Stored]:
    rows = db.execute("SELECT seq, dead, model, tier, visible_at, deadline_at FROM messages ORDER BY seq")
    return [
        Stored(seq, None, visible_at, math.inf)
        if dead
        else Stored(seq, QueueName(model, Tier(tier)), visible_at, deadline_at)
        for seq, dead, model, tier, visible_at, deadline_at in rows
    ]


def postpone(db: Connection, seq: int, visible_at: float) -> None:
    db.execute("UPDATE messages SET visible_at = ? WHERE seq = ?", (visible_at, seq))


def make_dead_letter(db: Connection, seq: int) -> None:
    db.execute("UPDATE messages SET dead = 1, visible_at = 0 WHERE seq = ?", (seq,))


def remove(db: Connection, seq: int) -> None:
    db.execute("DELETE FROM messages WHERE seq = ?", (seq,))
