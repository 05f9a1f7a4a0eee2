"""/console: the console's pages. They need no key: what they show comes from the API, which asks for one."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from producer.console.assets import INDEX, Asset, read_assets

CONSOLE = "/console"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing inline, nothing from other hosts, no frame around the page."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # Browsers ask each time and get 304, so that an upgraded server never meets a page of the version before.
    "cache-control": "no-cache",
}


def console_router() -> APIRouter:
    """Returns the routes. The files are read here, once for each application."""
    router = APIRouter(include_in_schema=False)
    assets = read_assets()

    @router.get("/")
    async def home(request: Request) -> Response:
        """Leads browsers to the console. Other clients get 404, as on any path that is not there."""
        if "text/html" not in request.headers.get("accept", ""):
            raise HTTPException(404)
        return RedirectResponse(f"{CONSOLE}/")

    @router.get(CONSOLE)
    async def without_slash() -> Response:
        return RedirectResponse(f"{CONSOLE}/")

    @router.get(CONSOLE + "/{path:path}")
    async def file(request: Request, path: str) -> Response:
        asset = assets.get(path or INDEX)
        if asset is None:
            raise HTTPException(404)
        return response(asset, known=request.headers.get("if-none-match", ""))

    return router


def response(asset: Asset, *, known: str) -> Response:
    """Returns the file, or 304 to a client that has it. `known`: its If-None-Match."""
    headers = {**HEADERS, "etag": asset.etag}
    if asset.etag in (entry.strip().removeprefix("W/") for entry in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers={**headers, "content-type": asset.media_type})
