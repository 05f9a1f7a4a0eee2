"""The standard health service: SERVING means the same as 200 of /readyz and is checked on request.

Clients need no key, so what is read and kept for them is bounded. The answer is the same for every service, so a client
whose message cannot be read, for lack of a slot, gets the answer for the whole server.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from producer.auth.failed_attempts import network_of
from producer.http.context import ApiContext
from producer.rpc.guarded import Methods
from producer.rpc.peers import address_of
from producer.rpc.receiving import UnauthenticatedReceiving
from shared.errors import DeadlineExceeded, Unavailable

Context = grpc.aio.ServicerContext[Any, Any]
Requests = AsyncIterator[HealthCheckRequest]
Status = HealthCheckResponse.ServingStatus

WATCH_EVERY = 5.0
"""Seconds between checks for watching clients; all of them share one check."""

WATCHERS, WATCHERS_OF_ONE = 256, 32
"""Open Watch streams, in total and of one address."""


class HealthService:
    def __init__(self, context: ApiContext, services: frozenset[str], receiving: UnauthenticatedReceiving) -> None:
        """`services`: the known names; "" is added and means the whole server."""
        self._context = context
        self._services = services | {""}
        self._receiving = receiving
        self._watchers: Counter[str] = Counter()
        self._check: asyncio.Task[bool] | None = None
        self._checked_at = float("-inf")

    def methods(self) -> Methods:
        """Returns stream handlers, because grpcio calls these before it reads the message."""
        read, write = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.stream_unary_rpc_method_handler(self.check, read, write),
            "Watch": grpc.stream_stream_rpc_method_handler(self.watch, read, write),
        }

    async def check(self, requests: Requests, context: Context) -> HealthCheckResponse:
        service = await self._service_in(requests, context)
        if service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Unknown service {service[:100]!r}.")
        return await self._response(service, 0)

    async def watch(self, requests: Requests, context: Context) -> AsyncGenerator[HealthCheckResponse]:
        address = network_of(address_of(context.peer()))
        if self._watchers.total() >= WATCHERS or self._watchers[address] >= WATCHERS_OF_ONE:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many clients watch this server's health.")
        with self._counted(address):
            service, sent = await self._service_in(requests, context), None
            while True:
                if (response := await self._response(service, WATCH_EVERY / 2)) != sent:
                    yield response
                    sent = response
                await asyncio.sleep(WATCH_EVERY)

    @contextmanager
    def _counted(self, address: str) -> Generator[None]:
        self._watchers[address] += 1
        try:
            yield
        finally:
            self._watchers[address] -= 1
            self._watchers += Counter()  # Drops addresses without watchers.

    async def _service_in(self, requests: Requests, context: Context) -> str:
        try:
            request = await self._receiving.next(requests)
        except Unavailable:
            return ""
        except DeadlineExceeded as error:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, error.message)
        return "" if request is None else request.service

    async def _response(self, service: str, age: float) -> HealthCheckResponse:
        """Returns the service's status, from a check that is at most `age` seconds old."""
        if service not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        ready = await self._ready(age)
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING)

    async def _ready(self, age: float) -> bool:
        """Checks readiness; concurrent callers share a check."""
        if self._check is None or (self._check.done() and time.monotonic() - self._checked_at >= age):
            self._check = asyncio.create_task(self._run_check(), name="grpc health")
        return await asyncio.shield(self._check)

    async def _run_check(self) -> bool:
        try:
            return not any((await self._context.readiness()).values())
        finally:
            self._checked_at = time.monotonic()
