"""The ports: what a backend promises. One contract suite (tests/contract) checks these docstrings for every backend.

All calls raise `BackendUnavailable` when the broker or the store does not answer in time. The caller then does not know
whether the step took place. Every step may safely be repeated.
"""

from __future__ import annotations

from shared.ports.backend import Backend
from shared.ports.documents import FLEET, Document, DocumentChanged, Documents
from shared.ports.limiter import Limiter
from shared.ports.log import Ending, Follower, FollowerClosed, JobLog, Progress, Sink, Update
from shared.ports.outbox import Notice, Outbox
from shared.ports.queue import Choose, Consumer, Delivery, Fate, JobQueue, Message, Undecodable
from shared.ports.refusals import AttemptFenced, LogShorter
from shared.ports.registry import EngineState, Membership, ModelInfo, Registry, WorkerInfo, idle, unknown
from shared.ports.scheduler import Backlog, FairScheduler, QueueState
from shared.ports.store import (
    Claim,
    JobClaims,
    JobEndings,
    JobFilter,
    JobReader,
    JobStore,
    JobSubmissions,
    NotClaimed,
)

__all__ = [
    "FLEET",
    "AttemptFenced",
    "Backend",
    "Backlog",
    "Choose",
    "Claim",
    "Consumer",
    "Delivery",
    "Document",
    "DocumentChanged",
    "Documents",
    "Ending",
    "EngineState",
    "FairScheduler",
    "Fate",
    "Follower",
    "FollowerClosed",
    "JobClaims",
    "JobEndings",
    "JobFilter",
    "JobLog",
    "JobQueue",
    "JobReader",
    "JobStore",
    "JobSubmissions",
    "Limiter",
    "LogShorter",
    "Membership",
    "Message",
    "ModelInfo",
    "NotClaimed",
    "Notice",
    "Outbox",
    "Progress",
    "QueueState",
    "Registry",
    "Sink",
    "Undecodable",
    "Update",
    "WorkerInfo",
    "idle",
    "unknown",
]
