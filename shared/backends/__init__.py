"""Opens the backend that the settings choose. Other packages import backends through this module only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from shared.errors import IgniteError
from shared.ports import Backend, Documents
from shared.settings import Settings

MESSAGES_PER_JOB = 2
"""Bound of a broker's queue, as a multiple of `queue_limit`. A job that ran piggybacked leaves its own message in the
queue until that is delivered, so a queue holds more messages than waiting jobs.
"""


def open_backend(settings: Settings, *, follows: bool = True) -> AbstractAsyncContextManager[Backend]:
    """Opens the backend that the settings choose, and imports only that one. `follows`: whether this process will
    follow logs.
    """
    if settings.amqp_url and settings.redis_url:
        from shared.backends.distributed import open_distributed

        return open_distributed(
            settings.amqp_url,
            settings.redis_url,
            queue_limit=settings.queue_limit * MESSAGES_PER_JOB,
            fair=settings.fairness,
            consumer_timeout=settings.consumer_timeout,
            follows=follows,
            eviction=settings.redis_eviction,
            tenant_limit=settings.tenant_store_limit,
        )
    from shared.backends.embedded.backend import open_embedded

    return open_embedded(
        settings.data_dir,
        queue_limit=settings.queue_limit * MESSAGES_PER_JOB,
        fair=settings.fairness,
        tenant_limit=settings.tenant_store_limit,
    )


async def diagnose(settings: Settings) -> Mapping[str, IgniteError | None]:
    """Checks each server that the settings name, and returns its error or None by name. Empty for the embedded backend.
    Raises SettingsError.
    """
    if not (settings.amqp_url and settings.redis_url):
        return {}
    from shared.backends.distributed import diagnose_distributed

    return await diagnose_distributed(settings.amqp_url, settings.redis_url)


def open_documents(settings: Settings) -> AbstractAsyncContextManager[Documents]:
    """Opens only the documents of the backend that the settings choose. Other processes may use the backend
    meanwhile.
    """
    if settings.redis_url:
        from shared.backends.distributed import open_distributed_documents

        return open_distributed_documents(settings.redis_url)
    from shared.backends.embedded.backend import open_embedded_documents

    return open_embedded_documents(settings.data_dir)
