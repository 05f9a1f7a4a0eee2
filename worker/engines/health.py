"""Records whether an engine can generate; others can wait for a change."""

from __future__ import annotations

import asyncio


class Health:
    """Starts unhealthy. The owner reports changes; any number of readers wait for them."""

    def __init__(self) -> None:
        self._is_healthy = asyncio.Event()
        self._is_unhealthy = asyncio.Event()
        self._is_unhealthy.set()
        self._reason = "the engine has not started"

    @property
    def healthy(self) -> bool:
        return self._is_healthy.is_set()

    @property
    def reason(self) -> str:
        return self._reason

    def recovered(self) -> None:
        self._is_unhealthy.clear()
        self._is_healthy.set()

    def failed(self, reason: str) -> None:
        self._reason = reason
        self._is_healthy.clear()
        self._is_unhealthy.set()

    async def wait_unhealthy(self) -> str:
        await self._is_unhealthy.wait()
        return self._reason

    async def wait_healthy(self) -> None:
        await self._is_healthy.wait()
