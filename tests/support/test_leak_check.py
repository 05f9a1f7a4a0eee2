import asyncio
import socket

import pytest

from tests.support.leak_check import no_leaks


async def test_names_a_task_left_behind() -> None:
    forgotten: list[asyncio.Task[bool]] = []
    with pytest.raises(TimeoutError, match="task forgotten"):
        async with no_leaks(within=0.05):
            forgotten.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))
    forgotten[0].cancel()


async def test_names_a_socket_left_open() -> None:
    with socket.socket() as other:
        with pytest.raises(TimeoutError, match=r"open file \d+ -> socket"):
            async with no_leaks(within=0.05):
                other = socket.socket()
        other.close()


async def test_is_content_when_everything_was_given_back() -> None:
    async with no_leaks():
        with socket.socket():
            await asyncio.create_task(asyncio.to_thread(str), name="finished")
