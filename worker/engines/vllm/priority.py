"""vLLM's own queue: the tier of a job as the priority by which vLLM schedules, lower first."""

from __future__ import annotations

from worker.engines.base import EngineRequest, Request

PRIORITIES = {"priority": -1, "default": 0, "flex": 1}
"""A server that does not schedule by priority refuses all but 0."""


def priority_of(request: Request) -> int:
    return PRIORITIES.get(request.tier, 0) if isinstance(request, EngineRequest) else 0
