"""The backends behind the ports, and the one door to them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from shared.errors import IgniteError
from shared.ports import Backend, Documents
from shared.settings import Settings

MESSAGES_PER_JOB = 2
"""The queue's own bound is beyond the one that submits are refused at: what has been run before its turn in the broker
leaves its message there until that comes.
"""


def open_backend(settings: Settings, *, follows: bool = True) -> AbstractAsyncContextManager[Backend]:
    """The backend that the settings ask for, open while inside; each is imported when asked for. `follows`: whether
    logs are to be followed from this process.
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
    """Each server that the settings name, with what is wrong with it; nothing for the embedded backend. Raises
    SettingsError.
    """
    if not (settings.amqp_url and settings.redis_url):
        return {}
    from shared.backends.distributed import diagnose_distributed

    return await diagnose_distributed(settings.amqp_url, settings.redis_url)


def open_documents(settings: Settings) -> AbstractAsyncContextManager[Documents]:
    """The documents of the backend that the settings ask for, and nothing else of it; also beside processes that use
    the whole.
    """
    if settings.redis_url:
        from shared.backends.distributed import open_distributed_documents

        return open_distributed_documents(settings.redis_url)
    from shared.backends.embedded.backend import open_embedded_documents

    return open_embedded_documents(settings.data_dir)
