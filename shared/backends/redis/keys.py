"""The names of all keys and channels in Redis. A job's keys have its id as hash tag, so a cluster keeps them on one
node. The step `append` builds the same names.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.limits import LINES, of_lines


def job(job_id: str) -> str:
    return f"ignite:{{{job_id}}}:job"


def log(job_id: str) -> str:
    return f"ignite:{{{job_id}}}:log"


def body(job_id: str) -> str:
    return f"ignite:{{{job_id}}}:body"


def progress(job_id: str) -> str:
    """What an engine needs to continue the answer; the step for appends builds the same name."""
    return f"ignite:{{{job_id}}}:progress"


def of_job(job_id: str) -> tuple[str, str, str]:
    return job(job_id), log(job_id), body(job_id)


def fair_queue(queue: str) -> str:
    """Returns the prefix of a fair queue's keys; the Lua steps append to it. A cluster keeps them on one node."""
    return f"ignite:{{{queue}}}:fair"


def fair_queue_keys(queue: str) -> Sequence[str]:
    """Returns the prefix and all keys: a cluster that moves the fair queue must know which keys a step uses."""
    begin = fair_queue(queue)
    return [begin, *(f"{begin}:{part}" for part in ("open", "jobs", "waiting", "tags", "debts", "later", "state"))]


def open_jobs(queue: str) -> str:
    """The jobs of a queue that are not over: waiting jobs by age, and far behind them the running jobs."""
    return f"{fair_queue(queue)}:open"


def jobs_of(tenant: str) -> str:
    """The ids of a tenant's jobs, some of which have expired. A tenant's indexes share a slot."""
    return f"ignite:{{tenant:{tenant}}}:jobs"


def stored_of(tenant: str) -> str:
    """The ids of a tenant's stored jobs."""
    return f"ignite:{{tenant:{tenant}}}:stored"


def model_of(tenant: str, model: str) -> str:
    """The ids of a tenant's jobs of one model."""
    return f"ignite:{{tenant:{tenant}}}:model:{model}"


def pair_of(tenant: str, digest: bytes) -> str:
    """The ids of a tenant's jobs with one metadata pair: see metadata_pairs.py."""
    return f"ignite:{{tenant:{tenant}}}:pair:{digest.hex()}"


def ended_of(tenant: str, status: str) -> str:
    """The ids of a tenant's jobs that ended with `status`, or were about to. Completed jobs have no such index."""
    return f"ignite:{{tenant:{tenant}}}:ended:{status}"


def kept_by(tenant: str) -> str:
    """The bytes that a tenant keeps: see shared/quota.py. In the same slot as its indexes."""
    return f"ignite:{{tenant:{tenant}}}:kept"


def idempotency_key(tenant: str, name: str) -> str:
    """The job that a client's idempotency key belongs to."""
    return f"ignite:tenant:{tenant}:key:{name}"


def sent(tenant: str, digest: str) -> str:
    """The jobs of requests with the same digest, for clients that were cut off and send a request again."""
    return f"ignite:tenant:{tenant}:sent:{digest}"


def replica(replica_id: str) -> str:
    """The channel of one API replica, with live frames of the jobs that it follows. The Lua steps build this name
    too.
    """
    return f"ignite:replica:{replica_id}"


def worker_channel(worker_id: str) -> str:
    """The control channel of one worker, with ids of jobs to stop. The worker lives while it has a subscriber."""
    return f"ignite:worker:{worker_id}:control"


def worker(worker_id: str) -> str:
    return f"ignite:worker:{worker_id}"


def document(kind: str, tenant: str, document_id: str) -> str:
    return f"ignite:{{{kind}:{tenant}}}:document:{document_id}"


def documents(kind: str, tenant: str) -> str:
    """The ids of a tenant's documents of one kind. In the same slot as the documents."""
    return f"ignite:{{{kind}:{tenant}}}:documents"


def of_limits(key_id: str) -> tuple[str, str, str]:
    """Returns the keys of an API key's usage, of its open jobs by deadline, and of their estimates. Its lines of
    batches have open jobs of their own, and share the usage.
    """
    key_id, lines = of_lines(key_id)
    prefix, end = f"ignite:{{limits:{key_id}}}", LINES if lines else ""
    return f"{prefix}:used", f"{prefix}:open{end}", f"{prefix}:estimates{end}"


OUTBOX = "ignite:outbox"
DEAD = "ignite:dead"
"""The ids of all tenants' jobs that failed with `attempts_exhausted`."""

QUEUES = "ignite:queues"
"""The names of queues that have had jobs."""

WORKERS = "ignite:workers"
MODELS = "ignite:models"
