"""The admission gate: limits per queue and per tenant, and deadlines that a job would miss."""

import pytest

from producer.admission.gate import AdmissionGate
from producer.jobs.background_retries import BackgroundRetries
from shared.errors import QueueFull, RateLimited
from shared.job import IdempotencyKey, Job
from shared.ports import Backlog
from shared.settings import Settings
from tests.contract.performers import QUEUE, new_job
from tests.producer.api import ask, embedded_api
from tests.support.wait_until import wait_until


class Store:
    """Returns the backlog that the test sets, and counts reads."""

    def __init__(self) -> None:
        self.jobs, self.tenant_jobs, self.started, self.asked = 0, 0, 0, 0

    async def backlog(self, *_: object) -> Backlog:
        self.asked += 1
        return Backlog(self.jobs, self.jobs * 100, 2, tenant_jobs=self.tenant_jobs, started=self.started)


class GateHarness:
    def __init__(self, **settings: object) -> None:
        self.store = Store()
        self.background_retries = BackgroundRetries()
        self.gate = AdmissionGate(self.store, Settings(**settings), self.background_retries)  # type: ignore[arg-type]

    async def admit(self, count: int = 1, **wishes: object) -> Job:
        for _ in range(count):
            await self.gate.admit(job := new_job(tokens=100, **wishes), draining=False)
        return job

    async def known(self) -> None:
        """Waits until the backlog was read in the background."""
        await wait_until(lambda: self.store.asked > 0, "a read of the backlog")
        await self.background_retries.close()


async def test_admission_does_not_wait_for_the_store() -> None:
    harness = GateHarness(queue_limit=1000)
    await harness.admit(count=3)
    assert harness.store.asked == 0
    await harness.known()
    await harness.admit(count=50)
    assert harness.store.asked <= 2, "what is known is good for a while"


async def test_the_limit_applies_between_two_reads() -> None:
    harness = GateHarness(queue_limit=10)
    with pytest.raises(QueueFull):
        for _ in range(20):
            await harness.admit()
            harness.store.jobs += 1
            await harness.known()
    assert harness.store.jobs == 10
    assert harness.store.asked <= 5


async def test_the_backlog_is_read_again_before_a_refusal() -> None:
    harness = GateHarness(tenant_queue_limit=5)
    harness.store.tenant_jobs = 5
    await harness.admit()
    await harness.known()
    harness.store.tenant_jobs = 0
    await harness.admit()


async def test_a_tenants_limit_and_the_tokens_limit() -> None:
    harness = GateHarness(tenant_queue_limit=5, queue_token_limit=1000)
    harness.store.tenant_jobs = 5
    await harness.admit()
    await harness.known()
    with pytest.raises(RateLimited, match="5 of your jobs"):
        await harness.admit()
    harness.store.tenant_jobs, harness.store.jobs = 0, 10
    with pytest.raises(QueueFull, match="1000 tokens"):
        await harness.admit()


async def test_a_request_with_an_idempotency_key_passes_the_gate() -> None:
    harness = GateHarness(queue_limit=1)
    harness.store.jobs = 1
    await harness.admit()
    await harness.known()
    await harness.admit(idempotency_key=IdempotencyKey("name", "digest"))


async def test_a_deadline_out_of_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = GateHarness(fairness=False)
    harness.store.jobs = 1000
    await harness.admit()
    await harness.known()
    monkeypatch.setattr(harness.gate._rates, "_clock", Ticking())
    for harness.store.started in range(0, 400, 20):  # Ten a second.
        await harness.gate._read(QUEUE, "tenant", 0)
    assert harness.gate.eta(new_job(), 99) == pytest.approx(10.0, rel=0.3)
    with pytest.raises(RateLimited) as refused:
        await harness.admit(deadline=30.0)
    assert refused.value.code == "deadline_out_of_reach"
    await harness.admit(deadline=200.0)
    await harness.background_retries.close()


class Ticking:
    """A clock that advances two seconds per read."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


async def test_only_the_tenant_with_a_large_backlog_is_refused() -> None:
    keys = "many=sk-many-123-0123456789,other=sk-other-456-0123456789"
    async with embedded_api(worker=False, tenant_queue_limit=2, api_keys=keys) as api:
        many, other = ({"authorization": f"Bearer sk-{name}-0123456789"} for name in ("many-123", "other-456"))
        answers = [await api.post(ask(background=True), **many) for _ in range(2)]
        assert [answer.status for answer in answers] == [202, 202]
        refused = await api.post(ask(background=True), **many)
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert (await api.post(ask(background=True), **other)).status == 202
        assert (await api.post(ask(background=True, service_tier="flex"), **many)).status == 202
