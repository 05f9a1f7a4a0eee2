"""Watches whether a server can be reached, and waits for a starting server. The contents of answers do not matter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

from shared.errors import EngineError, EngineOverloaded, EngineRefused
from worker.engines.health import Health
from worker.engines.openai.failures import key_refused
from worker.engines.openai.http_client import Upstream, UpstreamLost

# Seconds between two probes of a server that does not answer.
FIRST_PAUSE = 0.1
LAST_PAUSE = 2.0

PROBE_EVERY = 15.0
"""Seconds between two probes of a server that is healthy."""

KEY_STATUSES = frozenset({401, 403})
LOADING_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses of a server, or of a proxy before one, that is still starting."""


class ServerHealth:
    """The health of the connected server, if there is one. `listed` gets the server's models at each probe."""

    def __init__(self, listed: Callable[[list[dict[str, Any]]], None]) -> None:
        self._listed = listed
        self._health = Health()
        self._upstream: Upstream | None = None
        self._probe: asyncio.Task[None] | None = None
        self._under_way = 0
        self._is_loading = True

    def connect(self, upstream: Upstream) -> None:
        """Uses `upstream` from now on. Ignores its answers to probes until `connected`, because it may be loading."""
        self._upstream, self._is_loading = upstream, True

    def connected(self) -> None:
        self._is_loading = False
        self._health.recovered()

    async def disconnect(self, reason: str) -> None:
        self._health.failed(reason)
        upstream, self._upstream = self._upstream, None
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()
            await asyncio.wait({probe})
        if upstream is not None:
            await upstream.close()

    @property
    def upstream(self) -> Upstream:
        """The connected server. Raises EngineError if there is none."""
        if self._upstream is None:
            raise EngineError(f"The engine cannot generate: {self._health.reason}.")
        return self._upstream

    @contextmanager
    def counted(self) -> Generator[None]:
        """Counts a running request: while there are requests, a slow probe is no failure."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def wait_unhealthy(self) -> str:
        """Returns the reason of a failure. Probes the server every PROBE_EVERY seconds, because without requests
        nothing else shows a failure, and because its models may have changed.
        """
        while True:
            try:
                async with asyncio.timeout(PROBE_EVERY):
                    return await self._health.wait_unhealthy()
            except TimeoutError:
                await (self.list_again() if self._under_way else self._probe_twice())

    async def list_again(self) -> None:
        """Reads the server's list of models again; ignores a failure."""
        if (upstream := self._upstream) is not None:
            with suppress(EngineError):
                await self._list(upstream)

    async def wait_healthy(self) -> None:
        """Probes the server at growing intervals until it is healthy."""
        pause = FIRST_PAUSE
        while not await self._answers():
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._health.wait_healthy()
            pause = min(2 * pause, LAST_PAUSE)

    def suspect(self, upstream: Upstream, lost: UpstreamLost) -> None:
        """Marks a server that does not answer as unhealthy at once. Probes a server that closed the connection.

        Otherwise jobs would use up their tries on it while the probe waits. `wait_healthy` probes the server at once,
        so a server that failed on one request only is healthy again within a round trip.
        """
        if upstream is not self._upstream:
            return
        if not lost.hung_up:
            self._health.failed(lost.detail)
        elif self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probe_twice(), name="engine-probe")

    def answered(self, upstream: Upstream) -> None:
        """Marks the server as healthy, if it is still the connected one."""
        if upstream is self._upstream and not self._health.healthy:
            self._health.recovered()

    async def _answers(self) -> bool:
        upstream = self._upstream
        if upstream is None or self._is_loading:
            return False
        if not self._health.healthy:
            try:
                await self._list(upstream)
            except EngineError:
                return False
            self.answered(upstream)
        return self._health.healthy

    async def _list(self, upstream: Upstream) -> None:
        """Raises UpstreamLost where no HTTP answer comes."""
        answer = await upstream.models()
        if answer.status == 200 and upstream is self._upstream and not self._is_loading:
            self._listed(answer.models)

    async def _probe_twice(self) -> None:
        """Marks the server as unhealthy after two probes without any HTTP answer: a busy server may be slow once."""
        if (upstream := self._upstream) is None:
            return
        for last in (False, True):
            try:
                await self._list(upstream)
                return
            except UpstreamLost as lost:
                if last and upstream is self._upstream:
                    self._health.failed(lost.detail)
            except EngineError:
                return  # The server answers; requests report its error.


async def first_answer(upstream: Upstream, model: str | None) -> list[dict[str, Any]]:
    """Returns the server's models when it answers. A server without a list of models must answer a one-token
    request.
    """
    pause = FIRST_PAUSE
    while True:
        with suppress(UpstreamLost):
            listed = await upstream.models()
            if listed.status < 300 or (400 <= listed.status < 500 and listed.status not in KEY_STATUSES):
                return listed.models
            if listed.status not in LOADING_STATUSES and model and await _completes(upstream, model):
                return []
            if listed.status in KEY_STATUSES:
                raise key_refused(listed.status)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


async def _completes(upstream: Upstream, model: str) -> bool:
    """Whether the server answers a request for one token. A refusal counts as an answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": False}
    try:
        async with aclosing(upstream.answer(body, lambda: None)) as blocks:
            return [block async for block in blocks] != []
    except (EngineRefused, EngineOverloaded):
        return True
    except UpstreamLost:
        raise
    except EngineError:
        return False
