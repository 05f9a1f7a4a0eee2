"""Connections to the broker, which are opened on demand, at any of its nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import AbstractConnection as Wire

from shared.backends.rabbitmq.explained import unreachable
from shared.errors import BrokerUnavailable, sentence

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT = 5.0
CLOSE_TIMEOUT = 2.0
SETUP_TIMEOUT = 10.0
"""Seconds for all declarations. A broker that is starting may accept a connection and not answer on it."""

FAILURES = (*CONNECTION_EXCEPTIONS, ConnectionError, TimeoutError)
"""Errors of a broken connection, or of a broker that does not answer."""

Arguments = dict[str, Any]
Channel = AbstractChannel
Connection = AbstractConnection


@contextmanager
def lost_is_no_cancellation() -> Generator[None]:
    """Raises ConnectionError for cancellations by the driver, which cancels waiting calls when a connection breaks. A
    cancellation of this task stays one.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the connection was lost") from None


def unavailable(error: BaseException) -> BrokerUnavailable:
    return BrokerUnavailable("The broker (RabbitMQ) does not answer.", retry_after=2, detail=sentence(error))


class Link:
    """One connection. It is opened when it is needed, and again after it broke. `urls`: of the nodes, comma-separated;
    if one does not answer, the next is tried.
    """

    def __init__(self, urls: str, name: str) -> None:
        self._nodes = [with_heartbeat(url.strip()) for url in urls.split(",")]
        self._name = name
        self._connection: AbstractConnection | None = None
        self._opening = asyncio.Lock()

    async def connection(self) -> AbstractConnection:
        """Raises one of FAILURES."""
        if self._connection is not None and is_open(self._connection):
            return self._connection
        async with self._opening:
            if self._connection is None or not is_open(self._connection):
                await close_quietly(self._connection)
                self._connection = None
                self._connection = await self._connect()
            return self._connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        await close_quietly(connection)

    async def _connect(self) -> AbstractConnection:
        """Connects to the node that answered last, or else to the next one that answers."""
        for left in reversed(range(len(self._nodes))):
            try:
                with lost_is_no_cancellation():
                    return await aio_pika.connect(
                        self._nodes[0], timeout=CONNECT_TIMEOUT, client_properties={"connection_name": self._name}
                    )
            except FAILURES as error:
                failure = unreachable(error, self._nodes[0])
                self._nodes.append(self._nodes.pop(0))
                if not left:
                    raise failure from error
                log.warning("rabbitmq.node_away", error=sentence(failure), next="trying the next node")
        raise AssertionError("there is at least one node")


def with_heartbeat(url: str) -> str:
    """Adds a heartbeat, so that a lost connection is noticed within about 20 s even if the network is silent."""
    return url if "heartbeat=" in url else f"{url}{'&' if '?' in url else '?'}heartbeat=10"


def is_open(connection: AbstractConnection) -> bool:
    """Whether the connection is open. The driver's `is_closed` is true only for one that was closed from this side."""
    return connection.connected.is_set()


def wire_of(connection: AbstractConnection) -> Wire:
    assert connection.transport is not None
    return connection.transport.connection


def is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has announced that it accepts no messages at present (memory or disk alarm)."""
    asking = wire_of(connection).ready().__await__()
    try:
        next(asking)  # Stops at once unless it would wait. This runs before every message, so it uses no timer.
    except StopIteration:
        return False
    finally:
        asking.close()
    return True


def version_of(connection: AbstractConnection) -> tuple[int, ...]:
    """Returns the version that the broker reports, or () if it reports none."""
    properties: Arguments = getattr(wire_of(connection), "server_properties", None) or {}
    found = re.match(r"(\d+)\.(\d+)", str(properties.get("version", "")))
    return (int(found[1]), int(found[2])) if found else ()


async def close_quietly(connection: AbstractConnection | None) -> None:
    if connection is not None:
        with suppress(*FAILURES):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                with lost_is_no_cancellation():
                    await connection.close()


async def close_channel(channel: AbstractChannel | None) -> None:
    if channel is not None:
        with suppress(*FAILURES):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                with lost_is_no_cancellation():
                    await channel.close()
