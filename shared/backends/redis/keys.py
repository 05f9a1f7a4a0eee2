"""The names of everything in Redis. A job's keys carry its id as a hash tag, so a cluster keeps them on one node;
the step for appends builds the same names.
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
    """What the names of a queue's line begin with; the Lua steps add to it. A cluster keeps them on one node."""
    return f"ignite:{{{queue}}}:line"


def fair_queue_keys(queue: str) -> Sequence[str]:
    """How the names begin, and all of them: a cluster that is moving the line must know what a step will touch."""
    begin = fair_queue(queue)
    return [begin, *(f"{begin}:{part}" for part in ("open", "jobs", "lines", "tags", "debts", "later", "state"))]


def open_jobs(queue: str) -> str:
    """The jobs of a queue that are not over: those that wait by age, and far behind them those that run."""
    return f"{fair_queue(queue)}:open"


def jobs_of(tenant: str) -> str:
    """A tenant's job ids: lists, and what was known after its data has expired. A tenant's lists share a slot."""
    return f"ignite:{{tenant:{tenant}}}:jobs"


def stored_of(tenant: str) -> str:
    """The ids among them whose jobs were submitted to be stored."""
    return f"ignite:{{tenant:{tenant}}}:stored"


def model_of(tenant: str, model: str) -> str:
    """The ids among them of one model's jobs."""
    return f"ignite:{{tenant:{tenant}}}:model:{model}"


def pair_of(tenant: str, digest: bytes) -> str:
    """The ids among them whose jobs have one pair in their metadata: see pairs.py."""
    return f"ignite:{{tenant:{tenant}}}:pair:{digest.hex()}"


def ended_of(tenant: str, status: str) -> str:
    """The ids among them whose jobs have ended so, or were about to: only for those that did not end well."""
    return f"ignite:{{tenant:{tenant}}}:ended:{status}"


def kept_by(tenant: str) -> str:
    """How many bytes a tenant keeps: see shared/quota.py. With its lists in one slot."""
    return f"ignite:{{tenant:{tenant}}}:kept"


def idempotency_key(tenant: str, name: str) -> str:
    """What a client's idempotency key stands for."""
    return f"ignite:tenant:{tenant}:key:{name}"


def sent(tenant: str, digest: str) -> str:
    """The jobs of one and the same request, for clients that were cut off and send it again."""
    return f"ignite:tenant:{tenant}:sent:{digest}"


def replica(replica_id: str) -> str:
    """The channel of one API replica: live frames of the jobs it follows. The Lua steps build the same name."""
    return f"ignite:replica:{replica_id}"


def worker_channel(worker_id: str) -> str:
    """The control channel of one worker: ids of jobs to stop. Its subscriber is the sign that the worker lives."""
    return f"ignite:worker:{worker_id}:control"


def worker(worker_id: str) -> str:
    return f"ignite:worker:{worker_id}"


def document(kind: str, tenant: str, document_id: str) -> str:
    return f"ignite:{{{kind}:{tenant}}}:document:{document_id}"


def documents(kind: str, tenant: str) -> str:
    """The ids of a tenant's documents of one kind; with the documents in one slot."""
    return f"ignite:{{{kind}:{tenant}}}:documents"


def of_limits(key_id: str) -> tuple[str, str, str]:
    """What a key has used, its open jobs by deadline, and their estimates. Its lines of batches use the same tokens."""
    key_id, lines = of_lines(key_id)
    prefix, end = f"ignite:{{limits:{key_id}}}", LINES if lines else ""
    return f"{prefix}:used", f"{prefix}:open{end}", f"{prefix}:estimates{end}"


OUTBOX = "ignite:outbox"
DEAD = "ignite:dead"
"""Dead jobs of all tenants."""

QUEUES = "ignite:queues"
"""The names of queues that have had jobs."""

WORKERS = "ignite:workers"
MODELS = "ignite:models"
