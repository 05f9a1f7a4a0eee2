"""Webhooks to a real receiver. OpenAI's client verifies the signatures."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import ThreadedResolver, web
from openai import AsyncOpenAI, InvalidWebhookSignatureError, OpenAI

from producer import addresses
from producer.webhooks import sender as webhook_sender
from producer.webhooks import target
from producer.webhooks.sender import WEBHOOK_RETRY_FOR, pause
from shared.backends.distributed import open_distributed
from tests.producer.api import MODEL, Answer, Api, ask, embedded_api, running_api, settings_for_tests
from tests.support.batches import begun, jsonl, line, over
from tests.support.wait_until import wait_until

A_BATCH = {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass(frozen=True)
class Delivered:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """Answers with `statuses` in order, then with 204. Does not answer while `gate` is clear."""

    url: str = ""
    delivered: list[Delivered] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: web.Request) -> web.Response:
        self.delivered.append(Delivered(request.path, dict(request.headers), await request.read()))
        await self.gate.wait()
        status = self.statuses.pop(0) if self.statuses else 204
        response = web.Response(status=status, headers={"location": f"{self.url}/elsewhere"})
        response.force_close()
        return response

    async def came(self, count: int = 1) -> list[Delivered]:
        await wait_until(lambda: len(self.delivered) >= count, f"{count} events", seen=lambda: self.delivered)
        return self.delivered


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.gate.set()
    async with also_on(receiver, "127.0.0.1") as port:
        receiver.url = f"http://127.0.0.1:{port}"
        yield receiver
        receiver.gate.set()


@asynccontextmanager
async def also_on(receiver: Receiver, address: str) -> AsyncIterator[int]:
    """Makes the receiver listen on a free port of that address."""
    app = web.Application()
    app.router.add_post("/{tail:.*}", receiver.receive)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, address, 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the pauses between tries."""
    monkeypatch.setattr(webhook_sender, "EVERY", 0.02)
    monkeypatch.setattr(webhook_sender, "FIRST_PAUSE", 0.05)


@asynccontextmanager
async def on_servers(amqp_url: str, redis_url: str, **changes: Any) -> AsyncIterator[Api]:
    settings = settings_for_tests(amqp_url=amqp_url, redis_url=redis_url, **changes)
    async with open_distributed(amqp_url, redis_url) as backend, running_api(backend, settings) as api:
        yield api


@pytest.fixture(params=["embedded", "distributed"])
def urls(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    if request.param == "embedded":
        return None
    return request.getfixturevalue("amqp_url"), request.getfixturevalue("redis_url")


@pytest.fixture
async def any_api(urls: tuple[str, str] | None) -> AsyncIterator[Api]:
    opened = embedded_api(webhook_secret=SECRET) if urls is None else on_servers(*urls, webhook_secret=SECRET)
    async with opened as api:
        yield api


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with embedded_api(webhook_secret=SECRET) as api:
        yield api


def hooked(receiver: Receiver, prompt: str = "seed=7", **fields: Any) -> dict[str, Any]:
    return ask(prompt, background=True, webhook_url=f"{receiver.url}/hook?token=x", **fields)


async def test_a_jobs_end_is_sent(any_api: Api, receiver: Receiver) -> None:
    job_id = await any_api.submit(hooked(receiver))
    (only,) = await receiver.came()
    job = await any_api.job(job_id)
    assert only.event == {
        "id": only.headers["webhook-id"],
        "object": "event",
        "type": "chat.completion.completed",
        "created_at": job["finished_at"],
        "data": {"id": job_id},
    }
    assert only.event["id"].startswith("evt_")
    assert only.headers["Content-Type"] == "application/json"
    assert "webhook_url" not in any_api.engine.asked[0]


async def test_a_responses_end_is_told_as_openai_does(any_api: Api, receiver: Receiver) -> None:
    fields = {"model": MODEL, "background": True, "webhook_url": f"{receiver.url}/hook"}
    endings = {"seed=7": "completed", "refuse": "failed", "ttft=60000": "cancelled"}
    ids: dict[str, str] = {}
    for prompt, status in endings.items():
        response = (await any_api.post(fields | {"input": prompt}, "/v1/responses")).json
        ids[response["id"]] = f"response.{status}"
        if status == "cancelled":
            await any_api.post({}, f"/v1/responses/{response['id']}/cancel")
    came = await receiver.came(3)
    client = OpenAI(api_key="none", webhook_secret=SECRET)
    events = [client.webhooks.unwrap(each.body, each.headers) for each in came]
    assert {event.data.id: event.type for event in events} == ids  # type: ignore[union-attr]


async def test_a_batchs_end_is_sent_until_it_is_accepted(receiver: Receiver, tmp_path: Path) -> None:
    receiver.statuses = [500, 503]
    hook = {"webhook_url": f"{receiver.url}/batches"}
    async with (
        embedded_api(webhook_secret=SECRET, files_dir=tmp_path) as api,
        AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client,
    ):
        batch = await over(client, await begun(client, jsonl([line(1)]), extra_body=hook))
        *early, last = await receiver.came(3)
    assert last.event["type"] == "batch.completed"
    assert (last.event["data"], last.event["created_at"]) == (
        {"id": batch.id, "expected_finish_at": None},
        batch.completed_at,
    )
    assert {each.event["id"] for each in early} == {last.event["id"]}
    OpenAI(api_key="none").webhooks.verify_signature(last.body, last.headers, secret=SECRET)


async def test_events_are_signed_as_standard_webhooks(api: Api, receiver: Receiver) -> None:
    await api.submit(hooked(receiver))
    (only,) = await receiver.came()
    client = OpenAI(api_key="none")
    client.webhooks.verify_signature(only.body, only.headers, secret=SECRET)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(only.body + b" ", only.headers, secret=SECRET)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(only.body, only.headers, secret="whsec_" + "A" * 32)


async def test_every_kind_of_end_is_sent(any_api: Api, receiver: Receiver) -> None:
    failed = await any_api.submit(hooked(receiver, "refuse"))
    cancelled = await any_api.submit(hooked(receiver, "itl=60000"))
    await wait_until(lambda: any_api.engine.working, "the engine to work")
    await any_api.call("POST", f"/v1/jobs/{cancelled}/cancel")
    expired = await any_api.submit(hooked(receiver, "itl=60000", deadline_seconds=0.2))
    told = {each.event["data"]["id"]: each.event["type"] for each in await receiver.came(3)}
    assert told == {
        failed: "chat.completion.failed",
        cancelled: "chat.completion.cancelled",
        expired: "chat.completion.expired",
    }


async def test_a_failing_receiver_gets_the_event_again(any_api: Api, receiver: Receiver) -> None:
    receiver.statuses = [500, 404, 302]
    await any_api.submit(hooked(receiver))
    tries = await receiver.came(4)
    assert len({each.headers["webhook-id"] for each in tries}) == 1
    assert len({each.body for each in tries}) == 1
    await wait_until(lambda: nothing_is_left(any_api), "the outbox to be empty")
    assert len(receiver.delivered) == 4


async def nothing_is_left(api: Api) -> bool:
    """Whether the outbox is empty. Takes due notices."""
    assert not await api.backend.outbox.take(10, 0.01)
    return True


async def test_a_receiver_that_answers_410_gets_no_more_tries(api: Api, receiver: Receiver) -> None:
    receiver.statuses = [410]
    await api.submit(hooked(receiver))
    await receiver.came()
    await api.submit(hooked(receiver, "seed=8"))
    first, second = await receiver.came(2)
    assert first.event["data"] != second.event["data"]


async def test_an_unreachable_receiver_is_tried_again(api: Api, receiver: Receiver) -> None:
    """It does not delay other receivers."""
    job_id = await api.submit(ask(background=True, webhook_url="http://127.0.0.1:9/nobody"))
    await api.ended(job_id)
    await api.submit(hooked(receiver))
    await receiver.came()


async def test_the_job_does_not_wait_for_its_receiver(api: Api, receiver: Receiver) -> None:
    receiver.gate.clear()
    job_id = await api.submit(hooked(receiver))
    await receiver.came()
    assert (await api.job(job_id))["status"] == "completed"


async def test_another_replica_sends_what_one_could_not(amqp_url: str, redis_url: str, receiver: Receiver) -> None:
    async with on_servers(amqp_url, redis_url, webhook_secret=SECRET) as api:
        receiver.statuses = [500]
        job_id = await api.submit(hooked(receiver))
        await api.ended(job_id)
        await receiver.came()
    async with on_servers(amqp_url, redis_url, webhook_secret=SECRET):
        tries = await receiver.came(2)
    assert {each.event["data"]["id"] for each in tries} == {job_id}


async def refused(api: Api, **fields: Any) -> Answer:
    answer = await api.post(ask(**fields))
    assert (answer.status, answer.error["param"]) == (400, "webhook_url")
    return answer


async def test_webhooks_are_for_jobs(api: Api) -> None:
    await refused(api, webhook_url="http://127.0.0.1/x")
    await refused(api, webhook_url="http://127.0.0.1/x", stream=True)
    await refused(api, webhook_url="file:///etc/passwd", background=True)
    await refused(api, webhook_url=7, background=True)
    assert (await api.post(ask(webhook_url="http://127.0.0.1:9/x"), prefer="respond-async")).status == 202


async def test_a_server_without_a_secret_refuses_webhooks() -> None:
    async with embedded_api() as api:
        answer = await refused(api, webhook_url="http://127.0.0.1/x", background=True)
        assert "webhook_secret" in answer.error["message"]


class Inside(ThreadedResolver):
    """A resolver that resolves every name to this machine."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Any:
        return await super().resolve("localhost", port, family)


async def test_private_addresses_can_be_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "ThreadedResolver", Inside)
    async with embedded_api(webhook_secret=SECRET, webhook_private=False) as api:
        await refused(api, webhook_url=receiver.url, background=True)
        await refused(api, webhook_url="http://localhost/x", background=True)
        # A name that only the resolver sees through; nothing arrives.
        named = receiver.url.replace("127.0.0.1", "example.com")
        job_id = await api.submit(ask(background=True, webhook_url=named))
        await api.ended(job_id)
        await wait_until(lambda: was_tried(api), "a try")
    assert receiver.delivered == []


class Rebinding(ThreadedResolver):
    """A resolver that returns `answers` in order, and then the last one."""

    answers: ClassVar[list[str]] = []
    asked: ClassVar[list[str]] = []

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Any:
        self.asked.append(host)
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await super().resolve(address, port, family)


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats 127.0.0.2 as a public address."""
    known = addresses.is_public_address

    def is_public(address: Any) -> bool:
        return str(address) == "127.0.0.2" or known(address)

    monkeypatch.setattr(target, "is_public_address", is_public)
    monkeypatch.setattr(target, "ThreadedResolver", Rebinding)


@pytest.mark.usefixtures("public_loopback")
async def test_a_name_that_resolves_to_a_private_address_later_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rebinding, "answers", ["127.0.0.2", "127.0.0.1"])
    receiver.statuses = [500]
    async with (
        embedded_api(webhook_secret=SECRET, webhook_private=False) as api,
        also_on(receiver, "127.0.0.2") as port,
    ):
        await api.submit(ask(background=True, webhook_url=f"http://rebound.example.com:{port}/hook"))
        await receiver.came(1)
        await wait_until(lambda: Rebinding.asked.count("rebound.example.com") >= 3, "more tries")
        assert len(receiver.delivered) == 1
        monkeypatch.setattr(Rebinding, "answers", ["127.0.0.2"])
        await receiver.came(2)


@pytest.mark.usefixtures("public_loopback")
async def test_a_redirect_to_a_private_address_is_not_followed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rebinding, "answers", ["127.0.0.2"])
    receiver.statuses = [301, 302, 307, 308]
    async with (
        embedded_api(webhook_secret=SECRET, webhook_private=False) as api,
        also_on(receiver, "127.0.0.2") as port,
    ):
        await api.submit(ask(background=True, webhook_url=f"http://moved.example.com:{port}/hook"))
        await receiver.came(5)
    assert {each.path for each in receiver.delivered} == {"/hook"}


async def test_the_address_of_every_connection_is_checked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a DNS lookup, or after a wrong check of it."""
    monkeypatch.setattr(target, "private_fault", lambda _: None)
    monkeypatch.setattr(target, "PublicAddresses", Inside)
    async with webhook_sender.open_sender(SECRET, private_allowed=False) as sender:
        for url in (
            receiver.url,
            receiver.url.replace("127.0.0.1", "localhost"),
            receiver.url.replace("127.0.0.1", "a.b"),
        ):
            assert "private address" in str(await sender.send(url, webhook_sender.Event("evt_1", b"{}")))
    assert receiver.delivered == []


async def test_a_disguised_host_is_refused(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    async with embedded_api(webhook_secret=SECRET, webhook_private=False) as api:
        for host in ("127。0。0。1", "１２７.0.0.1", "①②⑦.0.0.1", "[::ffff:0:127.0.0.1]", "[64:ff9b::7f00:1]", "127.1"):
            await refused(api, webhook_url=f"http://{host}:{port}/", background=True)
            answer = await api.post({**A_BATCH, "webhook_url": f"http://{host}:{port}/"}, path="/v1/batches")
            assert (answer.status, answer.error["param"]) == (400, "webhook_url")
    assert receiver.delivered == []


async def was_tried(api: Api) -> bool:
    metrics = (await api.get("/metrics")).body.decode()
    return any(line.startswith('ignite_webhooks_total{outcome="failed"}') for line in metrics.splitlines())


def test_pauses_grow_and_end_after_a_day() -> None:
    assert pause(10)
    assert 8 <= (pause(10) or 0) <= 12
    assert 480 <= (pause(600) or 0) <= 720
    assert (pause(WEBHOOK_RETRY_FOR - 1) or 0) <= 1.2 * 3600
    assert pause(WEBHOOK_RETRY_FOR + 1) is None
