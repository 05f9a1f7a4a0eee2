"""The HTTP application, assembled."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from producer import completions, jobs, models
from producer.auth import Keyring
from producer.catalog import Catalog
from producer.dead_letters import settle_dead_letters
from producer.dependencies import Doors
from producer.errors import install_error_handlers
from producer.health import Health, health_router
from producer.middleware import Authentication, BodyLimit, RequestContext
from producer.service import JobService
from shared.ports import Backend
from shared.schema import ChatCompletionRequest
from shared.settings import Settings

EXPOSED = ("x-request-id", "x-job-id", "x-queue-wait-ms", "openai-processing-ms", "retry-after", "location", "etag")


def create_app(backend: Backend, settings: Settings) -> FastAPI:
    """The application on an open backend; who opened it closes it."""
    catalog = Catalog(backend.registry, settings.configured_models)
    doors = Doors(settings, backend, JobService(backend, catalog, settings), catalog, Health())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        doors.health.run("dead-letters", settle_dead_letters(backend, doors.service))
        try:
            yield
        finally:
            await doors.health.close()

    app = FastAPI(title="Ignite", version="0.1.0", lifespan=lifespan, redoc_url=None, redirect_slashes=False)
    app.state.doors = doors
    for router in (completions.router, jobs.router, models.router, health_router()):
        app.include_router(router)
    install_error_handlers(app)
    install_middleware(app, settings)
    app.openapi = lambda: openapi_of(app)
    return app


def install_middleware(app: FastAPI, settings: Settings) -> None:
    """Added last is outermost. CORS is outside authentication, or a browser could not read a 401."""
    app.add_middleware(BodyLimit, limit=settings.body_limit)
    app.add_middleware(Authentication, keyring=Keyring(settings.keys))
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED
    )
    app.add_middleware(RequestContext)


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description and the schema of the request, which the handlers check themselves from its bytes."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schema = ChatCompletionRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(schema.pop("$defs"), ChatCompletionRequest=schema)
        app.openapi_schema = described
    return app.openapi_schema
