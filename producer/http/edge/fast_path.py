"""Calls the handlers of the busiest routes without FastAPI's routing.

FastAPI describes these routes in /openapi.json and serves all others. Its dependencies, exit stacks and layers of error
handling took a quarter of such a call's CPU time, and these handlers use none of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.http.errors import error_response
from shared.errors import IgniteError

Handler = Callable[[Request], Awaitable[Response]]


class FastPath:
    """`handlers`: POST handlers by path. A handler raises only before its answer has started."""

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await handler(Request(scope, receive))
            await response(scope, receive, send)
        except IgniteError as error:
            await error_response(error)(scope, receive, send)
