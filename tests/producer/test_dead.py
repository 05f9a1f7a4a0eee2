"""/v1/dead: dead jobs and messages for operators."""

from tests.producer.api import Api, ask, embedded_api
from tests.support.wait_until import wait_until

KEYS = "alice=secret-of-alice-4711"


async def test_dead_jobs_are_listed_with_their_tenants_and_tried_again(api: Api) -> None:
    """Without keys every caller on loopback is an operator."""
    job_id = await api.submit(ask("break"))
    await api.ended(job_id)
    (job,) = (await api.get("/v1/dead")).json["data"]
    assert (job["id"], job["tenant"], job["error"]["code"]) == (job_id, "local", "attempts_exhausted")
    assert (await api.get("/v1/dead?model=another")).json["data"] == []

    assert (await api.post({}, f"/v1/dead/{job_id}/retry")).json["id"] == job_id
    await wait_until(lambda: len(api.engine.asked) == 2, "it to be tried again")


async def test_dead_jobs_need_an_operators_key() -> None:
    async with embedded_api(api_keys=KEYS) as api:
        for method, path in (("GET", ""), ("POST", "/x/retry"), ("GET", "/messages"), ("DELETE", "/messages/x")):
            answer = await api.call(method, f"/v1/dead{path}", headers={"authorization": "Bearer secret-of-alice-4711"})
            assert (answer.status, answer.error["type"]) == (403, "permission_error"), path


async def test_unknown_ids_are_404(api: Api) -> None:
    assert (await api.get("/v1/dead/messages")).json == {"object": "list", "data": []}
    for method, path in (("POST", "/chatcmpl-0/retry"), ("POST", "/messages/x/replay"), ("DELETE", "/messages/x")):
        assert (await api.call(method, f"/v1/dead{path}")).status == 404, path
