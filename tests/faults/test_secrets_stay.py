"""Every setting contains a password or key, and every part fails in turn: no answer, job record or log line reveals
one, and no answer contains an address.
"""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.cluster import API_READY, WORKER_READY
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import Redis
from tests.support.run_process import RunningProcess, run_ignite
from tests.support.server import free_ports
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait_until import wait_until
from tests.worker.engines.upstream_server import ANSWER, Behaviour, UpstreamServer, streams

BROKER, STORE, ENGINE, ENGINE_KEY = "pa55-of-broker", "pa55-of-store", "pa55-of-engine", "sk-of-engine-0123456789"
FILES, WEBHOOKS, CLIENT = "aws-secret-of-files", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "sk-of-alice-0123456789"
SECRETS = (BROKER, STORE, ENGINE, ENGINE_KEY, FILES, WEBHOOKS.removeprefix("whsec_"), CLIENT)
WORKER = ("worker", "--engine", "openai", "--model", "m")
CALL = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


class Site:
    """An API and a worker whose connections can be cut, and everything that a client has read."""

    def __init__(self, broker: TcpProxy, store: TcpProxy, engine: UpstreamServer, ports: list[int]) -> None:
        self.broker, self.store, self.engine = broker, store, engine
        self.ports = ports
        self.api: RunningProcess
        self.worker: RunningProcess
        self.session: aiohttp.ClientSession
        self.answers: list[str] = []

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, str]:
        async with self.session.request(method, path, **options) as response:
            text = await response.text()
            self.answers.append(f"{method} {path} {response.status} {dict(response.headers)} {text}")
            return response.status, text

    async def complete(self, **fields: object) -> tuple[int, str]:
        return await self.ask("POST", "/v1/chat/completions", json=CALL | fields)

    async def works(self) -> bool:
        return (await self.complete())[0] == 200

    async def upload(self) -> tuple[int, str]:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", b"{}\n", filename="in.jsonl")
        return await self.ask("POST", "/v1/files", data=form)


@pytest.fixture
async def site(rabbitmq_server: RabbitMQ, vhost: str, redis_server: Redis, redis_database: int) -> AsyncGenerator[Site]:
    rabbitmq_server.create_user("planted", BROKER, vhost)
    engine = UpstreamServer()
    await engine.start()
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", "planted", "on", f">{STORE}", "~*", "&*", "+@all")
        async with TcpProxy(rabbitmq_server.amqp_port) as broker, TcpProxy(redis_server.port) as store:
            (nothing,) = free_ports(1)
            site = Site(broker, store, engine, [broker.port, store.port, nothing, int(engine.url.split(":")[2][:-3])])
            env = {
                "IGNITE_AMQP_URL": f"amqp://planted:{BROKER}@127.0.0.1:{broker.port}/{vhost}",
                "IGNITE_REDIS_URL": f"redis://planted:{STORE}@127.0.0.1:{store.port}/{redis_database}",
                "IGNITE_API_KEYS": f"alice={CLIENT}",
                "IGNITE_WEBHOOK_SECRET": WEBHOOKS,
                "IGNITE_FILES_URL": "s3://bucket/files",
                "IGNITE_FILES_ENDPOINT": f"http://127.0.0.1:{nothing}",
                "AWS_ACCESS_KEY_ID": "access",
                "AWS_SECRET_ACCESS_KEY": FILES,
                "AWS_REGION": "us-east-1",
                "IGNITE_LOG_LEVEL": "debug",
                "IGNITE_RETRY_BACKOFF": "0.01",
            }
            async with running(site, env):
                yield site
        client.execute_command("ACL", "DELUSER", "planted")
    await engine.close()
    rabbitmq_server.delete_user("planted")


@asynccontextmanager
async def running(site: Site, env: dict[str, str]) -> AsyncGenerator[None]:
    engine = site.engine.url.replace("http://", f"http://me:{ENGINE}@")
    async with (
        run_ignite("api", "--port", "0", env=env | {"IGNITE_ENGINE_API_KEY": ENGINE_KEY}) as site.api,
        run_ignite(*WORKER, env=env | {"IGNITE_ENGINE_URL": engine}, ready=WORKER_READY) as site.worker,
    ):
        url = (await site.api.wait_for(API_READY))[1]
        async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {CLIENT}"}) as site.session:
            yield


def fails(status: int, body: Callable[[web.Request], str]) -> Behaviour:
    async def behave(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body(request), content_type="text/plain")

    return behave


async def test_no_secret_is_revealed(site: Site) -> None:
    await wait_until(site.works, "the first answer")
    await engine_fails(site)
    await files_fail(site)
    await store_fails(site)
    await broker_fails(site)

    wrong = {"authorization": f"Bearer {CLIENT}-not"}
    assert (await site.ask("GET", "/v1/models", headers=wrong))[0] == 401
    told, logged = "\n".join(site.answers), f"{site.api.output}\n{site.worker.output}"
    for secret in SECRETS:
        assert secret not in told
        assert secret not in logged
    for port in site.ports:
        assert f":{port}" not in told and f", {port})" not in told, [each for each in site.answers if str(port) in each]
    for word in ("Traceback", "user_script", "evalsha", "planted"):
        assert word not in told, word


async def engine_fails(site: Site) -> None:
    """Makes the engine fail once in each way; the job's record must reveal no more than the answer."""
    for behaviour in (
        fails(500, lambda _: "out of luck"),
        fails(401, lambda request: "who are you?"),
        streams(b"data: {nonsense\n\n"),
        streams(then="cut"),
    ):
        site.engine.behaviour = behaviour
        status, text = await site.complete()
        assert status >= 400, text
    await site.engine.stop_listening()
    status, text = await site.complete(background=True)
    assert status == 202, text
    job = json.loads(text)["id"]
    await site.engine.listen()
    site.engine.behaviour = fails(500, lambda _: "out of luck")

    async def over() -> bool:
        return json.loads((await site.ask("GET", f"/v1/jobs/{job}"))[1])["status"] in ("failed", "completed")

    await wait_until(over, "the job to be over")
    await site.ask("GET", "/v1/jobs")
    site.engine.behaviour = streams(ANSWER)
    await wait_until(site.works, "the engine to be back")


async def files_fail(site: Site) -> None:
    status, text = await site.upload()
    assert (status, json.loads(text)["error"]["code"]) == (503, "storage_unavailable")


async def store_fails(site: Site) -> None:
    site.store.refuse()
    status, text = await site.complete()
    assert (status, json.loads(text)["error"]["code"]) == (503, "store_unavailable")
    for path in ("/readyz", "/v1/jobs", "/v1/models", "/metrics", "/v1/jobs/chatcmpl-1"):
        await site.ask("GET", path)
    await site.store.resume()
    await wait_until(site.works, "the store to be back")


async def broker_fails(site: Site) -> None:
    site.broker.refuse()
    status, text = await site.complete()
    assert (status, json.loads(text)["error"]["code"]) == (503, "broker_unavailable")
    assert (await site.ask("GET", "/readyz"))[0] == 503
    await site.broker.resume()
    await wait_until(site.works, "the broker to be back")
