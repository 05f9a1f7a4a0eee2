"""The standard health service: SERVING means what /readyz means, looked up when somebody asks.

Anybody may ask, so what it reads and keeps for those who do is bounded. What it answers is the same for every service,
so a caller whose message there is no room for is answered for the server as a whole.
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
from producer.rpc.receiving import StrangersReceiving
from shared.errors import DeadlineExceeded, Unavailable

Context = grpc.aio.ServicerContext[Any, Any]
Requests = AsyncIterator[HealthCheckRequest]
Status = HealthCheckResponse.ServingStatus

WATCH_EVERY = 5.0
"""Seconds between looks for clients that watch; one look serves all of them."""

WATCHERS, WATCHERS_OF_ONE = 256, 32
"""Streams of Watch that are open at a time, of all clients and of one address."""


class HealthService:
    def __init__(self, context: ApiContext, services: frozenset[str], strangers: StrangersReceiving) -> None:
        """`services`: the names that may be asked for; "" is the server as a whole."""
        self._context = context
        self._services = services | {""}
        self._strangers = strangers
        self._watchers: Counter[str] = Counter()
        self._look: asyncio.Task[bool] | None = None
        self._looked_at = float("-inf")

    def methods(self) -> Methods:
        """Handlers of kinds that are called before the message is read."""
        read, write = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.stream_unary_rpc_method_handler(self.check, read, write),
            "Watch": grpc.stream_stream_rpc_method_handler(self.watch, read, write),
        }

    async def check(self, requests: Requests, context: Context) -> HealthCheckResponse:
        service = await self._service_in(requests, context)
        if service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {service[:100]!r} here.")
        return await self._response(service, 0)

    async def watch(self, requests: Requests, context: Context) -> AsyncGenerator[HealthCheckResponse]:
        address = network_of(address_of(context.peer()))
        if self._watchers.total() >= WATCHERS or self._watchers[address] >= WATCHERS_OF_ONE:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many clients watch this server's health.")
        with self._counted(address):
            service, told = await self._service_in(requests, context), None
            while True:
                if (response := await self._response(service, WATCH_EVERY / 2)) != told:
                    yield response
                    told = response
                await asyncio.sleep(WATCH_EVERY)

    @contextmanager
    def _counted(self, address: str) -> Generator[None]:
        self._watchers[address] += 1
        try:
            yield
        finally:
            self._watchers[address] -= 1
            self._watchers += Counter()  # Drops addresses that are down to none.

    async def _service_in(self, requests: Requests, context: Context) -> str:
        try:
            request = await self._strangers.next(requests)
        except Unavailable:
            return ""
        except DeadlineExceeded as error:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, error.message)
        return "" if request is None else request.service

    async def _response(self, service: str, age: float) -> HealthCheckResponse:
        """`age`: seconds for which the last look is good."""
        if service not in self._services:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        ready = await self._ready(age)
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING)

    async def _ready(self, age: float) -> bool:
        """Callers that ask at the same time share a look."""
        if self._look is None or (self._look.done() and time.monotonic() - self._looked_at >= age):
            self._look = asyncio.create_task(self._looked(), name="grpc health")
        return await asyncio.shield(self._look)

    async def _looked(self) -> bool:
        try:
            return not any((await self._context.readiness()).values())
        finally:
            self._looked_at = time.monotonic()
