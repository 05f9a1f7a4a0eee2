"""Whether an engine can generate, as a value others can wait for."""

from __future__ import annotations

import asyncio


class Health:
    """Starts unwell ("not started"); the owner reports changes, any number of readers wait for them."""

    def __init__(self) -> None:
        self._well = asyncio.Event()
        self._unwell = asyncio.Event()
        self._unwell.set()
        self._reason = "the engine has not started"

    @property
    def well(self) -> bool:
        return self._well.is_set()

    @property
    def reason(self) -> str:
        return self._reason

    def recovered(self) -> None:
        self._unwell.clear()
        self._well.set()

    def failed(self, reason: str) -> None:
        self._reason = reason
        self._well.clear()
        self._unwell.set()

    async def wait_unhealthy(self) -> str:
        await self._unwell.wait()
        return self._reason

    async def wait_healthy(self) -> None:
        await self._well.wait()
