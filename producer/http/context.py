"""The handlers' dependencies, kept on the application instead of in modules: a process may run several applications."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request
from starlette.responses import Response

from producer.admission.event_readers import EventReaders
from producer.admission.rate_limits import KeyLimits, Meter
from producer.auth.keyring import Keyring, Principal
from producer.batches.forecasts import BatchForecasts
from producer.batches.idempotency import IdempotentBatches
from producer.batches.lease import BatchLeaseManager
from producer.batches.repository import BatchRepository
from producer.catalog import Catalog
from producer.files.catalog import Files
from producer.fleet import Fleet
from producer.health import Health
from producer.http.connection.limits import Connections
from producer.http.edge.body_budget import BodyBudget
from producer.jobs.service import JobService
from producer.storage import Storage
from shared.ports import Backend
from shared.settings import Settings

REQUEST_ID = "request_id"
"""Key of a request's state: its `x-request-id`, for the logs of the API and of the job's workers."""


@dataclass(frozen=True, slots=True)
class ApiContext:
    settings: Settings
    backend: Backend
    keyring: Keyring
    limits: KeyLimits
    service: JobService
    catalog: Catalog
    health: Health
    files: Files
    storage: Storage
    batches: BatchRepository
    named_batches: IdempotentBatches
    runners: BatchLeaseManager
    forecasts: BatchForecasts
    fleet: Fleet
    bodies: BodyBudget
    connections: Connections
    readers: EventReaders

    async def readiness(self) -> Mapping[str, str | None]:
        """Checks each part that this replica needs: None if it answers, else a sentence for clients on the fault."""
        checked = await self.backend.check()
        self.health.log_changes(checked)
        found = {name: problem and problem.message for name, problem in checked.items()}
        parts = {**found, **self.health.dead_tasks}
        return parts | {"server": "shutting down"} if self.service.draining else parts


def context_of(request: Request) -> ApiContext:
    context = request.app.state.context
    assert isinstance(context, ApiContext)
    return context


def principal_of(request: Request) -> Principal:
    return request.state.principal


def meter_of(request: Request) -> Meter | None:
    return request.state.meter


def tenant_of(request: Request) -> str:
    return principal_of(request).tenant


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")
