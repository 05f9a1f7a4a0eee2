"""A worker stays ready whatever its upstream answers, and logs no health changes."""

import pytest
from structlog.testing import capture_logs

from tests.support.raw_upstream import Call, ask, upstream_api
from tests.support.wait_until import wait_until
from tests.worker.engines.openai.accents import ACCENTS, FAILED, REFUSED, Accent
from worker.engines.openai import server_health

GOOD = ACCENTS["as it should be"].body
ODD = [
    *(Accent(events).body for events, _ in FAILED.values()),
    *(Accent([said]).body for said, _ in REFUSED.values()),
    b"",
    b"<html>Welcome</html>",
]
MODELS = {
    "not found": ("404 Not Found", b'{"detail":"Not Found"}'),
    "not allowed": ("405 Method Not Allowed", b""),
    "no key": ("401 Unauthorized", b"{}"),
    "broken": ("500 Internal Server Error", b"oops"),
    "no list": ("200 OK", b"<html>Welcome</html>"),
}


@pytest.mark.parametrize("models", MODELS)
async def test_odd_answers_do_not_make_a_worker_unready(monkeypatch: pytest.MonkeyPatch, models: str) -> None:
    monkeypatch.setattr(server_health, "PROBE_EVERY", 0.02)

    async def script(call: Call) -> None:
        name, _, number = call.prompt.partition(" ")
        if name == "odd":
            await call.answer(ODD[int(number)])
        elif name == "reset":
            call.abort()
        else:
            await call.answer(GOOD)

    with capture_logs() as logs:
        async with upstream_api(script, models=MODELS[models], max_tries=1) as (api, worker):
            for number in range(len(ODD)):
                answer = await api.post(ask(f"odd {number}", stream=number % 2 == 0))
                assert b"worker failed on this request" not in answer.body
                assert b'"error"' in answer.body
            for _ in range(3):
                assert (await api.post(ask("reset"))).status == 500
            asked = worker.upstream.models_asked
            await wait_until(lambda: worker.upstream.models_asked > asked + 3, "the upstream to be asked while idle")
            assert (await api.post(ask("good"))).status == 200
            (model,) = (await api.get("/v1/models")).json["data"]
    assert model["id"] == "up"
    assert [each for each in logs if each["event"] == "job.finished"], "the log was read"
    assert not [each for each in logs if each["event"] in ("engine.unhealthy", "engine.healthy", "attempt.crashed")]
