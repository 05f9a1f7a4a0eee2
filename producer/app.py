"""The HTTP application, assembled."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp

from producer.admission.event_readers import EventReaders
from producer.admission.rate_limits import KeyLimits
from producer.auth.keyring import Keyless, Keyring
from producer.auth.keys import KeyRepository, Revocations
from producer.auth.revocations import RevocationWatcher
from producer.batches import routes as batches
from producer.batches.forecasts import BatchForecasts
from producer.batches.idempotency import IdempotentBatches
from producer.batches.lease import BatchLeaseManager
from producer.batches.repository import BatchRepository
from producer.batches.run import BatchContext, BatchRun
from producer.catalog import Catalog, Configured
from producer.files import routes as files
from producer.files.catalog import Files
from producer.files.reaper import reap
from producer.fleet import Fleet
from producer.health import Health
from producer.http.connection.limits import Connections
from producer.http.context import ApiContext
from producer.http.edge.body_budget import BodyBudget, BodyBudgetMiddleware
from producer.http.edge.browser_guard import BrowserGuard, LocalNames
from producer.http.edge.fast_path import FastPath
from producer.http.edge.head_requests import HeadRequests
from producer.http.edge.middleware import DOCS_ASSETS, Authentication, BodyLimit, RequestContext, UnhandledErrors
from producer.http.edge.tenant_calls import TenantCalls
from producer.http.errors import install_error_handlers
from producer.http.openapi import openapi_of
from producer.http.routes import calls, completions, dead, health, jobs, models, operations, responses, stored
from producer.http.routes.console import console_router
from producer.jobs.dead_letters import consume_dead_letters
from producer.jobs.reconciler import Reconciler
from producer.jobs.service import JobService
from producer.storage import open_storage
from producer.webhooks.sender import announce_endings
from shared.ports import Backend
from shared.settings import Settings

EXPOSED = (
    *("x-request-id", "openai-processing-ms", "openai-version", "www-authenticate", "allow"),
    *("x-job-id", "x-queue-wait-ms", "x-queue-position", "x-queue-eta-seconds"),
    *("retry-after", "x-should-retry", "location", "preference-applied", "etag"),
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
    *("x-incomplete", "x-last-line", "content-range"),
)
FILES = "/v1/files"
FORM_ROOM = 1024 * 1024
"""Bytes allowed for an upload's form around the file itself."""


def create_app(backend: Backend, settings: Settings, keyless: Keyless = Keyless.NEVER) -> FastAPI:
    """Returns the application on an open backend. The caller closes the service, then the backend. The setting
    `no_auth`, where it is set, overrides `keyless`.
    """
    keyless = keyless_by(settings, keyless)
    context = context_for(backend, settings, keyless)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        start_background_tasks(context)
        try:
            yield
        finally:
            await context.health.close()

    # The page at /docs brings its own script: GPU fleets often have no way out to a CDN.
    app = FastAPIOffline(
        title="Ignite",
        version="0.1.0",
        lifespan=lifespan,
        redoc_url=None,
        static_url=DOCS_ASSETS,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    app.state.context = context
    for routes in (completions, calls, stored, responses, jobs, models, files, batches, dead, operations, health):
        app.include_router(routes.router)
    app.include_router(console_router())
    install_error_handlers(app)
    install_edge(app, context)
    app.openapi = lambda: openapi_of(app, keyed=keyless is Keyless.NEVER)
    return app


def context_for(backend: Backend, settings: Settings, keyless: Keyless) -> ApiContext:
    catalog = Catalog(backend.registry, configured_models(settings))
    storage = open_storage(settings)
    service = JobService(backend, catalog, settings)
    repository = BatchRepository(backend.documents, settings.file_retention, settings.tenant_batch_limit)
    kept = Files(backend.documents, storage, settings.tenant_file_limit, growing=repository.content)
    bodies = BodyBudget(settings.body_budget, settings.tenant_body_budget)
    forecasts = BatchForecasts(backend.scheduler, catalog, repository)
    batch_context = BatchContext(
        settings=settings,
        backend=backend,
        service=service,
        catalog=catalog,
        batches=repository,
        files=kept,
        storage=storage,
        bodies=bodies,
        forecasts=forecasts,
    )
    return ApiContext(
        settings=settings,
        backend=backend,
        keyring=Keyring(settings.keys, KeyRepository(backend.documents), keyless, metrics_key=settings.metrics_key),
        limits=KeyLimits(backend.limiter, backend.store),
        service=service,
        catalog=catalog,
        health=Health(),
        files=kept,
        storage=storage,
        batches=repository,
        named_batches=IdempotentBatches(backend.documents, repository),
        runners=BatchLeaseManager(
            backend.documents,
            repository,
            lambda progress_writer: BatchRun(batch_context, progress_writer).run(),
            lease=settings.batch_lease,
        ),
        forecasts=forecasts,
        fleet=Fleet(backend, catalog),
        bodies=bodies,
        connections=Connections(settings),
        readers=EventReaders(settings.tenant_reader_limit),
    )


def start_background_tasks(context: ApiContext) -> None:
    backend, settings, service, run = context.backend, context.settings, context.service, context.health.run
    run("dead-letters", consume_dead_letters(backend, service))
    run("reconciler", Reconciler(backend, service, context.catalog).run(settings.sweep))
    run("reaper", reap(context.files, context.storage))
    if (secret := settings.webhook_secret) is not None:
        run("webhooks", announce_endings(backend, secret, private_allowed=settings.webhooks_may_be_private))
    run("batches", context.runners.run())
    run("forecasts", context.forecasts.run())
    run("revocations", RevocationWatcher(Revocations(backend.documents), service, context.batches).run())


def keyless_by(settings: Settings, default: Keyless) -> Keyless:
    if settings.keys or settings.no_auth is False:
        return Keyless.NEVER
    return Keyless.ALWAYS if settings.no_auth else default


def configured_models(settings: Settings) -> Configured:
    return Configured(settings.configured_models, settings.configured_aliases, settings.worker_patience)


def operation_id(route: APIRoute) -> str:
    """Returns the operation's name in generated clients."""
    return route.name


def install_edge(app: FastAPI, context: ApiContext) -> None:
    """Wraps the app's middleware around the stack that FastAPI builds."""
    inside = app.build_middleware_stack
    fast = {**completions.HANDLERS, **calls.HANDLERS, **responses.HANDLERS}
    app.build_middleware_stack = lambda: RequestContext(edge(FastPath(inside(), fast), context), fast)


def edge(app: ASGIApp, context: ApiContext) -> ASGIApp:
    """Returns `app` inside the middleware for every request. CORS is outside authentication: otherwise a browser could
    not read a 401.
    """
    settings = context.settings
    held = BodyBudgetMiddleware(HeadRequests(app), context.bodies, streamed=frozenset({FILES}))
    limited = BodyLimit(held, settings.body_limit, others={FILES: settings.file_limit + FORM_ROOM})
    counted = TenantCalls(limited, settings.tenant_call_limit, context.connections)
    inside = UnhandledErrors(Authentication(counted, context.keyring, context.limits))
    names = LocalNames(settings.keyless_hosts, any_address=not settings.on_loopback)
    return BrowserGuard(inside, context.keyring, names, expose_headers=EXPOSED, uploads=frozenset({FILES}))
