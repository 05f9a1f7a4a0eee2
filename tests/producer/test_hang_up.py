"""When a client disconnects its job is cancelled, unless it is detached."""

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from tests.producer.api import COMPLETIONS, Api, ask, raw_post
from tests.support.leak_check import no_leaks
from tests.support.wait_until import wait_until

ENDLESS = 1_000_000


@pytest.fixture(params=["embedded", "distributed"])
def any_api(request: pytest.FixtureRequest) -> Api:
    return request.getfixturevalue({"embedded": "api", "distributed": "distributed_api"}[request.param])


async def engine_is_working(api: Api) -> None:
    await wait_until(lambda: api.engine.working, "the engine to work")


async def engine_is_idle(api: Api) -> None:
    await wait_until(lambda: not api.engine.working, "the engine to hear of it")


async def test_disconnecting_while_the_server_waits_for_the_engine(any_api: Api) -> None:
    for stream in (False, True):
        async with any_api.connected(raw_post(ask("ttft=60000", stream=stream))):
            await engine_is_working(any_api)
        await engine_is_idle(any_api)


async def test_disconnecting_during_a_stream(any_api: Api) -> None:
    async with any_api.connected(raw_post(ask("itl=20", stream=True, max_tokens=10_000))) as reader:
        await reader.readuntil(b" t003")
    await engine_is_idle(any_api)


async def test_disconnecting_while_the_server_waits_for_the_client_to_read(any_api: Api) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, any_api.server.servers[0].sockets[0].getsockname())
        await loop.sock_sendall(client, raw_post(ask("go", stream=True, max_tokens=ENDLESS)))
        await wait_until(lambda: server_waits_to_send(any_api), "the server to wait in send", 30)
        assert any_api.engine.working
    await engine_is_idle(any_api)


@pytest.mark.parametrize("path", [COMPLETIONS, f"{COMPLETIONS}/x", "/v1/files", "/v1/batches"])
async def test_an_incomplete_body_causes_no_crash(api: Api, path: str) -> None:
    host, port = api.server.servers[0].sockets[0].getsockname()
    for length in ("Content-Length: 100", "Transfer-Encoding: chunked", "Content-Length: -1"):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n{length}\r\n\r\n"
        with capture_logs() as logs:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head.encode() + b"4\r\n--x\r")
            writer.write_eof()
            await reader.read()
            writer.close()
            await wait_until(lambda: not api.server.server_state.tasks, "the request to end")
        assert [each for each in logs if each["log_level"] == "error"] == []


def server_waits_to_send(api: Api) -> bool:
    return any(connection.flow.write_paused for connection in api.server.server_state.connections)


async def test_cancelling_the_clients_task_disconnects(any_api: Api) -> None:
    call = asyncio.create_task(any_api.post(ask("ttft=60000")))
    await engine_is_working(any_api)
    call.cancel()
    await engine_is_idle(any_api)


async def test_the_job_of_a_disconnected_client_is_cancelled(api: Api) -> None:
    async with api.connected(raw_post(ask("itl=20", stream=True, max_tokens=10_000))) as reader:
        job_id = job_of(await reader.readuntil(b"\r\n\r\n"))
        await reader.readuntil(b" t003")
    job = await api.ended(job_id)
    assert job["status"] == "cancelled"
    assert job["result"]["choices"][0]["message"]["content"].startswith(" t000 t001 t002 t003")


async def test_a_cancelled_queued_job_is_not_run(idle_api: Api) -> None:
    async with idle_api.connected(raw_post(ask("seed=1"))):
        (job,) = await wait_until(idle_api.queued, "the call to wait")
    await idle_api.ended(job["id"])
    async with idle_api.worker():
        await idle_api.post(ask("seed=2"))
    assert [request["messages"][0]["content"] for request in idle_api.engine.asked] == ["seed=2"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wish", ["header", "store"])
async def test_detached_jobs_run_on(any_api: Api, stream: bool, wish: str) -> None:
    headers = ["X-On-Disconnect: continue"] if wish == "header" else []
    body = ask("seed=7 ttft=300", stream=stream, store=wish == "store")
    async with any_api.connected(raw_post(body, *headers)):
        await engine_is_working(any_api)
        (job,) = await any_api.jobs()
    ended = await any_api.ended(job["id"])
    assert ended["status"] == "completed"
    assert ended["result"]["choices"][0]["message"]["content"] == " t007 t008 t009"


async def test_no_resources_are_left(api: Api) -> None:
    """No task and no socket is left after any kind of disconnect."""
    await api.post(ask())  # opens the connections that stay
    async with no_leaks():
        async with api.connected(raw_post(ask("ttft=60000"))):
            await engine_is_working(api)
        async with api.connected(raw_post(ask("itl=5", stream=True, max_tokens=10_000))) as reader:
            job_id = job_of(await reader.readuntil(b"\r\n\r\n"))
            request = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n"
            async with api.connected(request.encode()) as events:
                await events.readuntil(b"id: 3\n")


def job_of(head: bytes) -> str:
    (line,) = [line for line in head.decode().splitlines() if line.startswith("x-job-id: ")]
    return line.removeprefix("x-job-id: ")
