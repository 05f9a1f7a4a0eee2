"""The backends behind the ports, and the one door to them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from shared.ports import Backend
from shared.settings import Settings


def open_backend(settings: Settings) -> AbstractAsyncContextManager[Backend]:
    """The backend that the settings ask for, open while inside; each is imported when asked for."""
    if settings.amqp_url and settings.redis_url:
        from shared.backends.distributed import open_distributed

        return open_distributed(settings.amqp_url, settings.redis_url, queue_limit=settings.queue_limit)
    from shared.backends.embedded import open_embedded

    return open_embedded(settings.data_dir, queue_limit=settings.queue_limit)
