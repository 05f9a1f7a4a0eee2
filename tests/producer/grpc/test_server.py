"""The server around the calls: reflection, health, its port, and how it stops."""

import asyncio
import socket

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from shared.errors import IgniteError, StoreUnavailable
from tests.producer.api import ask, embedded_api
from tests.support.grpc_client import SERVICE, GrpcClient, as_json, grpc_client, refused
from tests.support.server import accepts_connections
from tests.support.wait_until import wait_until

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
KEYS = "alice=sk-alice-1-0123456789"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_without_a_key(version: str) -> None:
    async with embedded_api(grpc=True, api_keys=KEYS) as api, grpc_client(api.grpc_address) as client:
        ask_for = client.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )
        answers = [answer async for answer in ask_for(iter([ServerReflectionRequest(list_services="")]))]
    names = {service.name for answer in answers for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_health_is_readiness_and_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async with embedded_api(grpc=True, api_keys=KEYS) as api, grpc_client(api.grpc_address) as client:
        health = HealthStub(client.channel)
        for name in ("", SERVICE):
            assert (await health.Check(HealthCheckRequest(service=name))).status == SERVING

        async def broken() -> dict[str, IgniteError | None]:
            return {"database": StoreUnavailable("It is away.")}

        with monkeypatch.context() as patch:
            patch.setattr(api.backend, "check", broken)
            assert (await health.Check(HealthCheckRequest())).status == NOT_SERVING
        api.service.draining = True
        assert (await health.Check(HealthCheckRequest())).status == NOT_SERVING


async def test_health_of_an_unknown_service() -> None:
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        health = HealthStub(client.channel)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await health.Check(HealthCheckRequest(service="none"))
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(HealthCheckRequest(service="none"))
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


async def test_health_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.rpc.health.WATCH_EVERY", 0.02)
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        watch = HealthStub(client.channel).Watch(HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        api.service.draining = True
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def test_an_unknown_method() -> None:
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await client.channel.unary_unary(f"/{SERVICE}/Embeddings")(b"")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_grpc_there_is_no_port() -> None:
    async with embedded_api(grpc=False) as api:
        assert api.server.grpc is None
        assert "gRPC" not in api.server.addresses


async def test_a_used_port_is_reported_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"^cannot listen on 127.0.0.1:{port} for gRPC: choose .* --grpc-port"):
            async with embedded_api(grpc=True, grpc_port=port):
                pass


async def test_a_second_server_does_not_share_the_port() -> None:
    async with embedded_api(grpc=True) as api:
        port = int(api.grpc_address.rpartition(":")[2])
        with pytest.raises(OSError, match="cannot listen"):
            async with embedded_api(grpc=True, grpc_port=port):
                pass


async def test_an_open_stream_finishes_while_the_server_drains() -> None:
    async with embedded_api(grpc=True, drain=30) as api, grpc_client(api.grpc_address) as client:
        api.engine.gate.clear()
        call = client.stream(ask())
        await wait_until(lambda: api.engine.working)
        assert api.server.grpc
        stopping = asyncio.create_task(api.server.grpc.stop(30))
        port = int(api.grpc_address.rpartition(":")[2])
        await wait_until(lambda: not accepts_connections(port), "no more connections to be taken")
        api.engine.gate.set()
        chunks = [as_json(message) async for message in call]
        await stopping
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_call_that_outlasts_the_drain_is_cut_off_and_its_job_runs_on() -> None:
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        api.engine.gate.clear()
        calls = [asyncio.create_task(refused(kind(ask()))) for kind in (client.unary, client.stream)]
        await wait_until(lambda: api.engine.working == 2)
        assert api.server.grpc
        await api.server.grpc.stop(0.05)
        for refusal in await asyncio.gather(*calls):
            assert (refusal.code, refusal.error["code"]) == (grpc.StatusCode.UNAVAILABLE, "shutting_down")
            assert (await api.job(refusal.metadata["x-job-id"]))["status"] == "in_progress"
        api.engine.gate.set()
        for refusal in await asyncio.gather(*calls):
            assert (await api.ended(refusal.metadata["x-job-id"]))["status"] == "completed"


async def test_watch_streams_do_not_delay_the_shutdown() -> None:
    async with embedded_api(grpc=True, drain=60) as api, grpc_client(api.grpc_address) as client:
        watch = HealthStub(client.channel).Watch(HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        assert api.server.grpc
        await api.server.grpc.stop(60)
        assert await hung_up(watch)


async def hung_up(call: grpc.aio.UnaryStreamCall) -> bool:
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    return True


async def test_metadata_with_the_job_id_is_sent_before_the_first_chunk() -> None:
    async with (
        embedded_api(worker=False, grpc=True, keepalive=0.05) as api,
        grpc_client(api.grpc_address) as client,
    ):
        call = client.stream(ask())
        job = dict(await call.initial_metadata())["x-job-id"]
        assert (await api.job(str(job)))["status"] == "queued"
        async with api.worker():
            assert len([message async for message in call]) == 5


async def test_a_channel_may_have_many_calls() -> None:
    """More concurrent calls than HTTP/2 servers usually allow on a connection."""
    async with embedded_api(grpc=True) as api, grpc_client(api.grpc_address) as client:
        answers = await asyncio.gather(*(one_word(client, seed) for seed in range(250)))
    assert answers == [f" t{seed:03d}" for seed in range(250)]


async def one_word(client: GrpcClient, seed: int) -> str:
    return (await client.answer(ask(f"seed={seed}", max_tokens=1)))["choices"][0]["message"]["content"]
