"""The headers of answers, and which of them browsers can read."""

import re
from typing import Any

import pytest

from producer.http import serializers
from tests.producer.api import COMPLETIONS, MODEL, Answer, Api, ask, embedded_api
from tests.support.wait_until import wait_until

ORIGIN = {"origin": "http://localhost:3000"}


def job_headers(answer: Answer) -> tuple[str, float]:
    """Returns the job's id and its wait in seconds."""
    return answer.headers["x-job-id"], int(answer.headers["x-queue-wait-ms"]) / 1000


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", COMPLETIONS, ask(), 200),
        ("POST", COMPLETIONS, ask(stream=True), 200),
        ("POST", COMPLETIONS, ask(background=True), 202),
        ("POST", COMPLETIONS, ask("refuse"), 400),
        ("POST", COMPLETIONS, {"model": MODEL}, 400),
        ("GET", "/v1/models", None, 200),
        ("GET", "/v1/jobs/chatcmpl-nobody", None, 404),
        ("PUT", "/v1/models", None, 405),
        ("GET", "/healthz", None, 200),
    ],
)
async def test_every_answer_has_its_id_and_its_time(api: Api, method: str, path: str, body: Any, status: int) -> None:
    answer = await api.call(method, path, json=body)
    assert answer.status == status
    assert re.fullmatch("req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["openai-processing-ms"].isdigit()
    assert answer.headers["openai-version"] == "2020-10-01"
    kept = await api.call(method, path, json=body, headers={"x-request-id": "my-own-id"})
    assert kept.headers["x-request-id"] == "my-own-id"


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"background": True}])
async def test_answers_name_their_job(api: Api, fields: dict[str, Any]) -> None:
    answer = await api.post(ask(**fields))
    job_id, _ = job_headers(answer)
    await api.ended(job_id)
    for path in ("", "/result", "/events"):
        assert job_headers(await api.get(f"/v1/jobs/{job_id}{path}"))[0] == job_id


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_name_their_job(api: Api, stream: bool) -> None:
    answer = await api.post(ask("refuse", stream=stream))
    job_id, waited = job_headers(answer)
    assert (answer.status, (await api.job(job_id))["status"]) == (400, "failed")
    assert waited < 10


async def test_the_reported_wait_ends_when_the_job_starts(idle_api: Api) -> None:
    job_id = await idle_api.submit(ask("ttft=300"))
    waits: list[float] = []

    async def has_waited() -> bool:
        waits.append(job_headers(await idle_api.get(f"/v1/jobs/{job_id}"))[1])
        return waits[-1] >= 0.1

    await wait_until(has_waited)
    async with idle_api.worker():
        job = await idle_api.ended(job_id)
    first, again = [job_headers(await idle_api.get(f"/v1/jobs/{job_id}"))[1] for _ in range(2)]
    assert first == again >= waits[-1]
    assert first < job["finished_at"] - job["created_at"] + 1


async def test_polls_report_the_queue_position(idle_api: Api) -> None:
    await idle_api.submit(ask())
    second = await idle_api.post(ask(background=True))
    polled = await idle_api.get(f"/v1/jobs/{second.json['id']}")
    for answer in (second, polled):
        assert answer.headers["x-queue-position"] == "2"
        assert answer.headers["retry-after"] == "1"
    async with idle_api.worker():
        await idle_api.ended(second.json["id"])
    over = await idle_api.get(f"/v1/jobs/{second.json['id']}")
    assert not {"x-queue-position", "x-queue-eta-seconds", "retry-after"} & over.headers.keys()


@pytest.mark.parametrize(("eta", "seconds"), [(None, 1), (0.1, 1), (20.0, 10), (10_000.0, 120)])
def test_retry_after_of_polls_follows_the_estimate(eta: float | None, seconds: int) -> None:
    assert serializers.poll_after(eta) == seconds


def test_a_queue_position_without_an_estimate() -> None:
    assert serializers.queue_headers(None, None) == {}
    assert serializers.queue_headers(0, None) == {"x-queue-position": "1"}
    assert serializers.queue_headers(6, 11.6) == {"x-queue-position": "7", "x-queue-eta-seconds": "12"}


# ── browsers ──


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (COMPLETIONS, "authorization, content-type, x-stainless-os, idempotency-key"),
        ("/v1/chat/completions/chatcmpl-1", "authorization"),
        ("/v1/files", "authorization"),
        ("/v1/nowhere", "authorization"),
    ],
)
async def test_a_preflight_needs_no_key(path: str, headers: str) -> None:
    async with embedded_api(api_keys="alice=sk-alice-alice-0123456789") as api:
        for method in ("GET", "POST", "DELETE"):
            asked = {"access-control-request-method": method, "access-control-request-headers": headers}
            answer = await api.call("OPTIONS", path, headers=ORIGIN | asked)
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == "*"
            assert method in answer.headers["access-control-allow-methods"]
            assert set(headers.split(", ")) <= set(answer.headers["access-control-allow-headers"].split(", "))


async def readable(answer: Answer, status: int) -> None:
    assert answer.status == status
    assert answer.error["message"]
    assert answer.headers["access-control-allow-origin"] in ("*", ORIGIN["origin"])
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    ours = {name.lower() for name in answer.headers if name.lower().startswith(("x-", "openai-", "retry-"))}
    assert ours
    assert ours <= exposed
    assert answer.headers["x-request-id"]


async def test_a_browser_can_read_every_error(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    await readable(await api.call("POST", COMPLETIONS, json=ask("refuse"), headers=ORIGIN), 400)
    await readable(await api.call("GET", "/v1/nowhere", headers=ORIGIN), 404)
    await readable(await api.call("PUT", COMPLETIONS, headers=ORIGIN), 405)
    monkeypatch.setattr(api.service, "call", breaks)
    monkeypatch.setattr(api.service, "list", breaks)
    await readable(await api.call("GET", "/v1/jobs", headers=ORIGIN), 500)
    await readable(await api.call("POST", COMPLETIONS, json=ask(), headers=ORIGIN), 500)


async def test_a_browser_can_read_refusals_of_the_middleware() -> None:
    async with embedded_api(api_keys="alice=sk-alice-alice-0123456789", body_limit=1024) as api:
        await readable(await api.call("GET", "/v1/models", headers=ORIGIN), 401)
        key = {"authorization": "Bearer sk-alice-alice-0123456789"}
        await readable(await api.call("POST", COMPLETIONS, json=ask("x" * 1024), headers=ORIGIN | key), 413)


async def test_a_browser_can_read_an_answers_headers(api: Api) -> None:
    answer = await api.call(
        "POST", COMPLETIONS, json=ask(background=True), headers=ORIGIN | {"prefer": "respond-async"}
    )
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {name.lower() for name in answer.headers} - exposed <= {
        *("access-control-allow-origin", "access-control-expose-headers", "content-length", "content-type", "date"),
        *("server", "vary"),
    }
