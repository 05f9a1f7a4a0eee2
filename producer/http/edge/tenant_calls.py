"""Limits the open requests of one tenant in a process, and how many of them start in one event loop iteration."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from starlette.types import ASGIApp, Receive, Scope, Send

from producer.admission.open_counts import OpenCounts
from producer.http.connection.limits import Connections
from producer.http.errors import error_response
from shared.errors import RateLimited

STARTS = 8
"""Requests of one tenant that start in one event loop iteration; the others wait for the next iterations."""


class TenantCalls:
    """Runs inside of `Authentication`, which puts the principal into the scope's state."""

    def __init__(self, app: ASGIApp, limit: int, connections: Connections) -> None:
        self._app = app
        self._limit = min(limit, max(1, connections.limit * 4 // 5))
        self._connections = connections
        self._open = OpenCounts()
        self._turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope.get("state", {}).get("principal") if scope["type"] == "http" else None
        if principal is None:
            await self._app(scope, receive, send)
            return
        tenant: str = principal.tenant
        if self._open.of(tenant) >= self._limit:
            self._connections.note("tenant_call_limit")
            await error_response(too_many(self._limit))(scope, receive, send)
            return
        with self._open.counted(tenant):
            if (turn := self._turns.take(tenant)) is not None:
                await turn
            await self._app(scope, receive, send)


class Turns:
    """Spreads the starts of a tenant's requests over event loop iterations: a thousand requests that arrive at once
    would otherwise start in one iteration, and nobody else would be served for a second.
    """

    def __init__(self) -> None:
        self._started: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def take(self, tenant: str) -> asyncio.Future[None] | None:
        """Returns a future to wait for, or None if the request may start now."""
        if not self._started:
            asyncio.get_running_loop().call_soon(self._next_iteration)
        if tenant not in self._waiting and self._started[tenant] < STARTS:
            self._started[tenant] += 1
            return None
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        return turn

    def _next_iteration(self) -> None:
        self._started.clear()
        for tenant, turns in [*self._waiting.items()]:
            while turns and self._started[tenant] < STARTS:
                turn = turns.popleft()
                if not turn.done():  # Cancelled otherwise.
                    self._started[tenant] += 1
                    turn.set_result(None)
            if not turns:
                del self._waiting[tenant]
        if self._started:
            asyncio.get_running_loop().call_soon(self._next_iteration)


def too_many(limit: int) -> RateLimited:
    message = f"Your tenant has {limit:,} open requests on this server, which is the limit; wait until one ends."
    return RateLimited(message, code="too_many_open_calls", retry_after=2)
