"""Limits the bytes of request bodies that a process holds at a time.

A body is held from its first byte to the end of its answer: a waiting call keeps its request, so that its job can be
submitted again if the store loses it. A body that exceeds the budget is refused by its Content-Length before it is
read; a body of unknown length is counted as it arrives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Self

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.http.errors import error_response
from producer.metrics import BODIES_REFUSED, BODY_BYTES
from shared.errors import IgniteError, RateLimited, Unavailable

SMALL = 16 * 1024
"""Bytes. Bodies up to this size are not counted."""

RETRY_AFTER = 2.0
"""Seconds after which a client should send its request again."""


class BodyBudget:
    """Counts the bytes of all bodies (`limit`) and of each tenant's (`tenant_limit`). The only body of a process or a
    tenant is accepted whatever its size.
    """

    def __init__(self, limit: int, tenant_limit: int) -> None:
        self._limit = limit
        self._tenant_limit = tenant_limit
        self._tenants: Counter[str] = Counter()
        self.held = 0

    def open(self, tenant: str) -> HeldBody:
        return HeldBody(self, tenant)

    def refusal(self, tenant: str, more: int) -> IgniteError | None:
        held = self._tenants.get(tenant, 0)
        if held and held + more > self._tenant_limit:
            BODIES_REFUSED.labels("tenant").inc()
            message = (
                f"The bodies of your open requests have {held:,} bytes, and this one would exceed the limit of "
                f"{self._tenant_limit:,} bytes. Send it again when others have been answered."
            )
            return RateLimited(message, code="too_many_request_bytes", retry_after=RETRY_AFTER)
        if self.held and self.held + more > self._limit:
            BODIES_REFUSED.labels("process").inc()
            message = (
                f"The bodies of open requests would exceed this server's limit of {self._limit:,} bytes. "
                "Send this request again later."
            )
            return Unavailable(message, code="server_busy", retry_after=RETRY_AFTER)
        return None

    def has_room(self, tenant: str) -> bool:
        """Whether deferrable work may start: half of the budget is reserved for requests that cannot wait."""
        return self.held < self._limit / 2 and self._tenants.get(tenant, 0) < self._tenant_limit / 2

    def add(self, tenant: str, size: int) -> None:
        self.held += size
        BODY_BYTES.inc(size)
        self._tenants[tenant] += size
        if not self._tenants[tenant]:
            del self._tenants[tenant]


class HeldBody:
    """One request's share of the budget."""

    def __init__(self, budget: BodyBudget, tenant: str) -> None:
        self._budget = budget
        self._tenant = tenant
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def grow(self, size: int) -> None:
        """Raises the share to `size` bytes; never lowers it. Raises RateLimited, Unavailable."""
        more = size - self._size
        if more <= 0:
            return
        if (refused := self._budget.refusal(self._tenant, more)) is not None:
            raise refused
        self._budget.add(self._tenant, more)
        self._size = size

    def release(self) -> None:
        self._budget.add(self._tenant, -self._size)
        self._size = 0


class BodyBudgetMiddleware:
    """Counts bodies against the budget. `streamed`: paths whose bodies are passed on in chunks and not counted."""

    def __init__(self, app: ASGIApp, budget: BodyBudget, streamed: Collection[str]) -> None:
        self._app = app
        self._budget = budget
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope.get("state", {}).get("principal")
        if scope["type"] != "http" or principal is None or scope["path"] in self._streamed:
            await self._app(scope, receive, send)
            return
        announced = announced_size(scope)
        if announced is not None and announced <= SMALL:
            await self._app(scope, receive, send)
            return
        with self._budget.open(principal.tenant) as body:
            try:
                body.grow(announced or 0)
            except IgniteError as error:
                await error_response(error)(scope, receive, send)
                return
            await self._app(scope, counted(receive, body), send)


def announced_size(scope: Scope) -> int | None:
    """Returns the body's size in bytes, or None if the request's head does not give it."""
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers:
        return None
    length = headers.get("content-length", "0")
    return int(length) if length.isdigit() else None


def counted(receive: Receive, body: HeldBody) -> Receive:
    taken = 0

    async def receive_counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        body.grow(taken)
        return message

    return receive_counted
