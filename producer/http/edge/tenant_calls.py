"""Limits the open requests of one tenant in a process."""

from __future__ import annotations

from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from producer.http.connection.limits import Connections
from producer.http.errors import error_response
from shared.errors import RateLimited


class TenantCalls:
    """Runs inside of `Authentication`, which puts the principal into the scope's state."""

    def __init__(self, app: ASGIApp, limit: int, connections: Connections) -> None:
        self._app = app
        self._limit = min(limit, max(1, connections.limit * 4 // 5))
        self._connections = connections
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope.get("state", {}).get("principal") if scope["type"] == "http" else None
        if principal is None:
            await self._app(scope, receive, send)
            return
        tenant: str = principal.tenant
        if self._open[tenant] >= self._limit:
            self._connections.note("tenant_call_limit")
            await error_response(too_many(self._limit))(scope, receive, send)
            return
        self._open[tenant] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]


def too_many(limit: int) -> RateLimited:
    message = f"Your tenant has {limit:,} open requests on this server, which is the limit; wait until one ends."
    return RateLimited(message, code="too_many_open_calls", retry_after=2)
