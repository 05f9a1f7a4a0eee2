"""One line for each finished request and job, with the client's request id in both, and nothing that a client wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests.producer.api import COMPLETIONS, ask, embedded_api
from tests.support.grpc_client import grpc_client
from tests.support.wait_until import wait_until

KEY, PROMPT, HEADER, QUERY = "sk-planted-key-0123456789", "planted prompt", "planted-header", "planted-query"
MINE = "req-of-alice-17"


def lines_of(logs: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    return [line for line in logs if line["event"] == event]


async def test_a_request_and_its_job_leave_one_line_each_with_the_same_request_id() -> None:
    with capture_logs([merge_contextvars]) as logs:
        async with embedded_api(api_keys=f"alice={KEY}", grpc=True) as api:
            known = {"authorization": f"Bearer {KEY}", "x-request-id": MINE, "x-planted": HEADER}
            answered = await api.call("POST", f"{COMPLETIONS}?x={QUERY}", json=ask(f"{PROMPT} seed=7"), headers=known)
            streamed = await api.call("POST", COMPLETIONS, json=ask(PROMPT, stream=True), headers=known)
            await api.call("POST", COMPLETIONS, json=ask(f"{PROMPT}: break", stream=True), headers=known)
            await api.get(f"/v1/jobs/{answered.headers['x-job-id']}", **known)
            await api.get(f"/{QUERY}", **known)
            await api.get("/v1/models", authorization=f"Bearer {KEY}-not")
            await api.get("/readyz")
            async with grpc_client(api.grpc_address) as client:
                metadata = {"authorization": f"Bearer {KEY}", "x-request-id": MINE}
                await client.answer(ask(PROMPT), metadata=metadata)
            await wait_until(lambda: len(lines_of(logs, "job.finished")) == 4, "the jobs' lines")

    first, second, failed, called = lines_of(logs, "job.finished")
    assert {line["request_id"] for line in (first, second, failed, called)} == {MINE}
    assert {line["tenant"] for line in (first, second, failed, called)} == {"alice"}
    assert (first["job"], first["outcome"], first["attempt"]) == (answered.headers["x-job-id"], "completed", 1)
    assert (first["tokens_in"], first["tokens_out"], first["model"], first["tier"]) == (3, 3, "simulated", "default")
    assert first["first_token"] is None
    assert 0 <= second["first_token"] <= second["seconds"]
    assert (failed["outcome"], failed["code"]) == ("failed", "attempts_exhausted")
    assert "The engine broke." in failed["error"]
    (attempt,) = lines_of(logs, "attempt.failed")
    assert (attempt["error"], attempt["job"]) == ("The engine broke.", failed["job"])

    requests = lines_of(logs, "request.finished")
    assert [
        (line["method"], line["route"], line["status"], line.get("tenant"), line["log_level"]) for line in requests
    ] == [
        ("POST", COMPLETIONS, 200, "alice", "info"),
        ("POST", COMPLETIONS, 200, "alice", "info"),
        ("POST", COMPLETIONS, 200, "alice", "info"),
        ("GET", "/v1/jobs/{job_id}", 200, "alice", "info"),
        ("GET", "unknown", 404, "alice", "info"),
        ("GET", "unknown", 401, None, "info"),
        ("GET", "/readyz", 200, None, "debug"),
        ("gRPC", "/dodil.ignite.v1.ModelService/ChatCompletion", "OK", "alice", "info"),
    ]
    assert [line["job"] for line in requests[:2]] == [answered.headers["x-job-id"], streamed.headers["x-job-id"]]
    assert requests[0]["request_id"] == MINE
    assert requests[-1]["job"] == called["job"]

    written = str(logs)
    assert not [planted for planted in (KEY, PROMPT, HEADER, QUERY) if planted in written]


async def test_a_client_that_leaves_before_the_answer_leaves_a_line() -> None:
    with capture_logs() as logs:
        async with embedded_api(worker=False) as api:
            body = b'{"model": "simulated", "messages": [{"role": "user", "content": "hi"}]}'
            head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            async with api.connected(head.encode() + body):
                await wait_until(lambda: api.queued(), "the call to wait")
            await wait_until(lambda: 499 in [line["status"] for line in lines_of(logs, "request.finished")])
