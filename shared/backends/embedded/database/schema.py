"""The embedded database's tables and their version."""

from __future__ import annotations

from shared.backends.embedded.database.transactions import Connection
from shared.errors import StoreUnavailable

VERSION = 13

# `log.until`: the offset behind a row's data; `log.chunks`: the number of frames up to there. So a job's last row has
# the size of its log, and an append writes only its own row.
# `jobs.base`: the size of the log when the running attempt began; `lost`: how many attempts in a row lost their worker
# without an append; `code`: of the error that ended the job. `pairs`: the index of jobs by metadata, see
# metadata_index.py.
# `messages.dead`: the message is a dead letter. Which consumer holds a message is known in memory only.
# `documents.before`: the version that the last write replaced.
# AUTOINCREMENT: numbers in the order of arrival, which are never reused.
TABLES = """
CREATE TABLE jobs (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    mode TEXT NOT NULL,
    created_at REAL NOT NULL,
    deadline_at REAL NOT NULL,
    retention REAL NOT NULL,
    detached INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    seed INTEGER,
    metadata TEXT NOT NULL,
    idempotency_key TEXT,
    webhook_url TEXT,
    limit_key TEXT,
    made_with TEXT,
    api TEXT NOT NULL DEFAULT 'chat',
    sent TEXT,
    tokens INTEGER NOT NULL,
    weight REAL NOT NULL,
    window_end REAL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    base INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    leased_until REAL,
    cancelling INTEGER NOT NULL DEFAULT 0,
    started_at REAL,
    first_token_at REAL,
    finished_at REAL,
    expires_at REAL,
    purge_at REAL NOT NULL,
    ending BLOB,
    result BLOB,
    code TEXT,
    own INTEGER NOT NULL DEFAULT 0,
    room INTEGER NOT NULL DEFAULT 0,
    kept INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX jobs_by_status ON jobs (tenant, status, id);
CREATE INDEX jobs_by_model ON jobs (tenant, model, id);
CREATE INDEX jobs_by_code ON jobs (tenant, code, id) WHERE code IS NOT NULL;
CREATE INDEX jobs_of_all_by_code ON jobs (code, id) WHERE code IS NOT NULL;
CREATE INDEX jobs_stored ON jobs (tenant, id) WHERE stored = 1 AND api = 'chat';
CREATE INDEX jobs_sent ON jobs (tenant, sent) WHERE sent IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_queued ON jobs (model, tier, id) WHERE status = 'queued';
CREATE INDEX jobs_by_purge ON jobs (purge_at);

CREATE TABLE pairs (
    pair INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    job INTEGER NOT NULL,
    PRIMARY KEY (pair, job_id)
) WITHOUT ROWID;
CREATE INDEX pairs_by_job ON pairs (job);

CREATE TABLE bodies (
    job INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);
CREATE TABLE log (
    job INTEGER NOT NULL,
    until INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (job, until)
) WITHOUT ROWID;

CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    dead INTEGER NOT NULL DEFAULT 0,
    job_id TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    visible_at REAL NOT NULL DEFAULT 0,
    deadline_at REAL NOT NULL,
    envelope TEXT NOT NULL,
    body BLOB
);
CREATE INDEX messages_by_job ON messages (job_id);

CREATE TABLE tombstones (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    forget_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX tombstones_by_end ON tombstones (forget_at);

CREATE TABLE idempotency_keys (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    job_id TEXT NOT NULL,
    forget_at REAL NOT NULL,
    PRIMARY KEY (tenant, name)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_end ON idempotency_keys (forget_at);

CREATE TABLE outbox (
    job_id TEXT PRIMARY KEY,
    due_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX outbox_by_due ON outbox (due_at);

CREATE TABLE documents (
    kind TEXT NOT NULL,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    before INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    PRIMARY KEY (kind, tenant, id)
) WITHOUT ROWID;
CREATE INDEX documents_by_end ON documents (expires_at);

CREATE TABLE models (
    id TEXT PRIMARY KEY,
    seen_at REAL NOT NULL,
    info TEXT NOT NULL
) WITHOUT ROWID;
"""

# The bytes that a tenant keeps are the sum of `kept` over its jobs: see shared/quota.py. `jobs.own`: bytes of the
# record; `room`: bytes reserved for the log.
KEPT = """
CREATE TABLE kept (
    tenant TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TRIGGER kept_by_new_job AFTER INSERT ON jobs BEGIN
    INSERT INTO kept (tenant, bytes) VALUES (NEW.tenant, NEW.kept)
    ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER kept_by_job AFTER UPDATE OF kept ON jobs BEGIN
    UPDATE kept SET bytes = bytes + NEW.kept - OLD.kept WHERE tenant = NEW.tenant;
END;
CREATE TRIGGER kept_no_more AFTER DELETE ON jobs BEGIN
    UPDATE kept SET bytes = bytes - OLD.kept WHERE tenant = OLD.tenant;
END;
"""

# Jobs of an older version count as 0 bytes until they expire.
FROM_8 = """
ALTER TABLE jobs ADD COLUMN own INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN room INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
"""


FROM_9 = "ALTER TABLE jobs ADD COLUMN made_with TEXT;"
"""Migrates version 9 to 10."""

# What an engine needs to continue a running answer; `until` is the offset behind a row's data, as in `log`.
PROGRESS = """
CREATE TABLE progress (
    job INTEGER NOT NULL,
    until INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (job, until)
) WITHOUT ROWID;
"""

FROM_11 = "ALTER TABLE jobs ADD COLUMN window_end REAL;"

FROM_12 = """
ALTER TABLE jobs ADD COLUMN api TEXT NOT NULL DEFAULT 'chat';
DROP INDEX jobs_stored;
CREATE INDEX jobs_stored ON jobs (tenant, id) WHERE stored = 1 AND api = 'chat';
"""

STEPS = {8: f"{FROM_8} {KEPT}", 9: FROM_9, 10: PROGRESS, 11: FROM_11, 12: FROM_12}
"""What a database of each earlier version lacks, in order."""


def migrate(db: Connection) -> None:
    """Migrates the database to this version. Raises BackendUnavailable if it cannot be migrated."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreUnavailable(
            f"The database was written by a newer Ignite (its version is {version}, this Ignite reads up to {VERSION}):"
            " use that Ignite, or another data directory."
        )
    if version in STEPS:
        steps = " ".join(step for before, step in STEPS.items() if before >= version)
        db.executescript(f"BEGIN; {steps} PRAGMA user_version = {VERSION}; COMMIT;")
        return
    if 0 < version < VERSION:
        raise StoreUnavailable(
            "The database was written by a version of Ignite that was never released: move the data directory away."
        )
    if version == 0:
        db.executescript(f"BEGIN; {TABLES} {KEPT} {PROGRESS} PRAGMA user_version = {VERSION}; COMMIT;")
