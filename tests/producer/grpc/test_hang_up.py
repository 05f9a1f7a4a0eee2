"""A call's job is cancelled when its client cancels the call."""

import grpc
import pytest

from tests.producer.api import Api, ask, embedded_api
from tests.support.grpc_client import GrpcClient, as_json, grpc_client
from tests.support.pace import pause
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 1.0
"""Seconds the contract gives the engine to hear of it."""

ENDLESS = 1_000_000


async def engine_is_working(api: Api) -> None:
    await wait_until(lambda: api.engine.working, "the engine to work")


async def engine_is_idle(api: Api) -> None:
    await wait_until(lambda: not api.engine.working, "the engine to hear of it", AT_ONCE)


async def test_cancelling_while_the_server_waits_for_the_engine(api: Api, client: GrpcClient) -> None:
    for call in (client.unary, client.stream):
        waiting = call(ask("ttft=60000"))
        await engine_is_working(api)
        waiting.cancel()
        await engine_is_idle(api)


async def test_cancelling_in_the_middle_of_a_stream(api: Api, client: GrpcClient) -> None:
    call = client.stream(ask("itl=20", max_tokens=10_000))
    job = str(dict(await call.initial_metadata())["x-job-id"])
    await said(call, " t003")
    call.cancel()
    await engine_is_idle(api)
    ended = await api.ended(job)
    assert ended["status"] == "cancelled"
    assert ended["result"]["choices"][0]["message"]["content"].startswith(" t000 t001 t002 t003")


async def said(call: grpc.aio.UnaryStreamCall, word: str) -> None:
    async for message in call:
        if as_json(message)["choices"][0]["delta"].get("content") == word:
            return


async def test_cancelling_while_the_server_waits_for_the_client_to_read(api: Api, client: GrpcClient) -> None:
    call = client.stream(ask("go", max_tokens=ENDLESS))
    await call.initial_metadata()
    await engine_is_working(api)
    call.cancel()
    await engine_is_idle(api)


async def test_a_connection_that_ends(api: Api) -> None:
    async with grpc_client(api.grpc_address) as client:
        calls = [client.unary(ask("ttft=60000")), client.stream(ask("ttft=60000"))]
        await wait_until(lambda: api.engine.working == 2, "the engine to work on both")
        await client.channel.close()
    await engine_is_idle(api)
    assert all(call.done() for call in calls)


@pytest.mark.parametrize("prompt", ["ttft=60000", "itl=20"])
async def test_the_calls_deadline_is_the_jobs(api: Api, client: GrpcClient, prompt: str) -> None:
    call = client.stream(ask(prompt, max_tokens=10_000, metadata={"for": prompt}), timeout=0.5)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        async for _ in call:
            pass
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await engine_is_idle(api)
    (job,) = (await api.get(f"/v1/jobs?metadata[for]={prompt}")).json["data"]
    assert (await api.ended(job["id"]))["status"] == "expired"


async def test_the_earlier_of_the_two_deadlines_applies(api: Api, client: GrpcClient) -> None:
    for body, call, counts in ((600, 60, 60), (60, 600, 60), (None, 60, 60)):
        answer = await client.answer(ask(deadline_seconds=body), timeout=call)
        job = await api.job(answer["id"])
        assert counts - 5 <= job["deadline_at"] - job["created_at"] <= counts + 1


async def test_a_job_whose_deadline_passed_in_the_queue_is_not_run() -> None:
    async with embedded_api(worker=False, grpc=True) as api, grpc_client(api.grpc_address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.unary(ask("late"), timeout=0.3)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        (job,) = await api.jobs()
        assert (await api.ended(job["id"]))["error"]["code"] == "deadline_exceeded_in_queue"
        async with api.worker():
            await client.answer(ask("in time"))
        assert [request["messages"][0]["content"] for request in api.engine.asked] == ["in time"]


async def test_a_cancelled_queued_job_is_not_run() -> None:
    async with embedded_api(worker=False, grpc=True) as api, grpc_client(api.grpc_address) as client:
        call = client.unary(ask("seed=1"))
        (job,) = await wait_until(api.queued, "the call to wait")
        call.cancel()
        assert (await api.ended(job["id"]))["status"] == "cancelled"
        async with api.worker():
            await client.answer(ask("seed=2"))
        assert [request["messages"][0]["content"] for request in api.engine.asked] == ["seed=2"]


@pytest.mark.parametrize("wish", ["header", "store"])
async def test_detached_jobs_run_on(api: Api, client: GrpcClient, wish: str) -> None:
    metadata = {"x-on-disconnect": "continue"} if wish == "header" else {}
    call = client.stream(ask("seed=7 ttft=300", store=wish == "store"), metadata=metadata)
    await engine_is_working(api)
    (job, *_) = await api.jobs()
    call.cancel()
    ended = await api.ended(job["id"])
    assert ended["status"] == "completed"
    assert ended["result"]["choices"][0]["message"]["content"] == " t007 t008 t009"


async def test_a_call_cancelled_during_the_submit_leaves_nothing(api: Api, client: GrpcClient) -> None:
    """Calls cancelled at every moment of a submit: every created job ends soon."""
    calls = [client.unary(ask("itl=60000")) for _ in range(50)]
    for turns, call in enumerate(calls):
        for _ in range(turns):
            await pause(0)
        call.cancel()
    await wait_until(lambda: nothing_unfinished(api), "every job to be over")
    await engine_is_idle(api)


async def nothing_unfinished(api: Api) -> bool:
    return not (await api.jobs("status=queued") or await api.jobs("status=in_progress"))
