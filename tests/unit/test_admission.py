"""Who is turned away, and with which words. Pure."""

from dataclasses import replace
from typing import Any

import pytest

from producer.admission.rules import Facts, QueueLimits, jobs_before, refusal
from shared.ports import Backlog

LIMITS = QueueLimits(jobs=100, tokens=10_000, tenant_jobs=10)
BACKLOG = Backlog(jobs=50, tokens=5_000, tenants=5, tenant_jobs=5, started=1000)
WELCOME = Facts(
    draining=False, time_left=60.0, limits=LIMITS, tokens=100, backlog=BACKLOG, wait=5.0, seconds_until_room=2.0
)


def facts(**changes: Any) -> Facts:
    backlog = {name: changes.pop(name) for name in ("jobs", "tenant_jobs", "tokens_waiting") if name in changes}
    if "tokens_waiting" in backlog:
        backlog["tokens"] = backlog.pop("tokens_waiting")
    return replace(WELCOME, **({"backlog": replace(BACKLOG, **backlog)} if backlog else {}), **changes)


@pytest.mark.parametrize(
    "welcome",
    [
        {},
        {"backlog": None, "wait": None},
        {"jobs": 99},
        {"tenant_jobs": 9},
        {"tokens_waiting": 9_900},
        {"jobs": 0, "tokens_waiting": 0, "tokens": 1_000_000},
        {"limits": QueueLimits(jobs=51), "tenant_jobs": 50, "tokens_waiting": 10**9},
        {"wait": 119.0},
        {"wait": None, "time_left": 0.1},
    ],
)
def test_who_is_let_in(welcome: dict[str, Any]) -> None:
    assert refusal(facts(**welcome)) is None


@pytest.mark.parametrize(
    ("turned_away", "code", "retry_after"),
    [
        ({"draining": True}, "shutting_down", 5.0),
        ({"time_left": 0.0}, "deadline_exceeded_in_queue", None),
        ({"jobs": 100}, "queue_full", 2.0),
        ({"tokens_waiting": 9_901}, "queue_full", 2.0),
        ({"tenant_jobs": 10}, "rate_limit_exceeded", 2.0),
        ({"wait": 130.0}, "deadline_out_of_reach", 70.0),
    ],
)
def test_who_is_turned_away(turned_away: dict[str, Any], code: str, retry_after: float | None) -> None:
    refused = refusal(facts(**turned_away))
    assert refused is not None
    assert (refused.code, refused.retry_after) == (code, retry_after)


def test_how_many_come_before_a_new_job() -> None:
    assert jobs_before(BACKLOG, fair=False) == 50
    assert jobs_before(BACKLOG, fair=True) == 25
    assert jobs_before(replace(BACKLOG, tenant_jobs=0), fair=True) == 0
    assert jobs_before(replace(BACKLOG, tenant_jobs=50), fair=True) == 50


def test_more_of_a_tenants_jobs() -> None:
    assert BACKLOG.with_more(2, 30) == Backlog(jobs=52, tokens=5_060, tenants=5, tenant_jobs=7, started=1000)
