"""The standard health service: SERVING means what /readyz means, looked up when somebody asks."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from producer.dependencies import Doors

Context = grpc.aio.ServicerContext[Any, Any]
Status = HealthCheckResponse.ServingStatus

WATCH_EVERY = 5.0
"""Seconds between looks for clients that watch."""


class HealthService(health_pb2_grpc.HealthServicer):
    def __init__(self, doors: Doors, services: frozenset[str]) -> None:
        """`services`: the names that may be asked for; "" is the server as a whole."""
        self._doors = doors
        self._services = services | {""}

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service!r} here.")
        return await self._response(request.service)

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:
        told = None
        while True:
            if (response := await self._response(request.service)) != told:
                await context.write(response)
                told = response
            await asyncio.sleep(WATCH_EVERY)

    async def _response(self, service: str) -> HealthCheckResponse:
        if service not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        ready = not any((await self._doors.troubles()).values())
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING)
