"""One delivery from claim to ack, on the real embedded backend."""

import asyncio
import time
from collections.abc import AsyncGenerator

import orjson
import pytest
from structlog.testing import capture_logs

from shared.job import Job, JobStatus
from shared.ports import Claim
from tests.contract.performers import message_for, new_job
from tests.support.wait_until import wait_until
from tests.worker.scripted import (
    ANSWER,
    SCRIPTS,
    USAGE,
    WORKER,
    Bench,
    ScriptedEngine,
    a_worker,
    chunk,
    delta,
    ended_with_nothing,
    open_bench,
    text_of,
)
from worker.engines.base import Chunk
from worker.outcome import Cancelled, Interrupted

WHOLE = "".join(ANSWER)


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    async with open_bench() as bench:
        yield bench


@pytest.fixture(params=[False, True], ids=["replays", "continues"])
async def any_bench(request: pytest.FixtureRequest) -> AsyncGenerator[Bench]:
    """With an engine that can continue a text, and with one that cannot."""
    async with open_bench(continues_text=request.param) as bench:
        yield bench


async def claimed_by(bench: Bench, job: Job, owner: str, lease: float = 30.0, lost: str | None = None) -> Claim:
    claim = await bench.backend.store.claim(job.id, owner, lease, lost=lost)
    assert isinstance(claim, Claim)
    return claim


# ── the ways an attempt ends ──


async def test_a_stream_is_logged_finished_and_acknowledged(bench: Bench) -> None:
    job = await bench.submit("answer")

    delivery = await bench.run()

    record, frames = await bench.record(job), await bench.frames(job)
    assert delivery.settled == ["ack"]
    assert (record.status, record.attempt, record.tries, record.usage) == (JobStatus.COMPLETED, 1, 0, USAGE)
    assert text_of(frames) == WHOLE
    assert frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert frames[-2]["choices"][0]["finish_reason"] == "stop"
    assert frames[-1] == "[DONE]"


async def test_the_result_of_a_stream_is_its_completion(bench: Bench) -> None:
    job = await bench.submit("answer")

    await bench.run()

    result = orjson.loads((await bench.record(job)).result or b"")
    assert (result["id"], result["object"], result["model"]) == (job.id, "chat.completion", job.model)
    assert result["choices"][0]["message"] == {"role": "assistant", "content": WHOLE, "refusal": None}
    assert result["usage"] == USAGE


async def test_an_unlogged_job_has_a_result_and_no_frames(bench: Bench) -> None:
    job = await bench.submit("answer", unary=True)

    await bench.run()

    record = await bench.record(job)
    assert orjson.loads(record.result or b"")["choices"][0]["message"]["content"] == WHOLE
    assert await bench.frames(job) == []


async def test_requested_usage_is_streamed(bench: Bench) -> None:
    job = await bench.submit("answer", request={"stream_options": {"include_usage": True}})

    await bench.run()

    *chunks, last, done = await bench.frames(job)
    assert (last["choices"], last["usage"], done) == ([], USAGE, "[DONE]")
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_an_engine_gets_the_request_without_ignites_fields_and_with_a_seed(bench: Bench) -> None:
    await bench.submit("answer", request={"store": True, "top_k": 7}, seed=42)

    await bench.run()

    (request,) = bench.engine.requests
    assert {"model", "messages", "top_k", "seed"} == request.keys()
    assert request["seed"] == 42


async def test_a_refusal_is_final(bench: Bench) -> None:
    job = await bench.submit("refuse")

    delivery = await bench.run()

    record, frames = await bench.record(job), await bench.frames(job)
    assert delivery.settled == ["ack"]
    assert (record.status, record.error and record.error["code"]) == (JobStatus.FAILED, "context_length_exceeded")
    assert [frames[0]["error"], frames[1]] == [record.error, "[DONE]"]


async def test_a_failed_job_is_tried_again_and_its_stream_continues(any_bench: Bench) -> None:
    job = await any_bench.submit("fail once in the middle")

    first = await any_bench.run()
    second = await any_bench.run()

    record, frames = await any_bench.record(job), await any_bench.frames(job)
    assert (first.settled, second.settled) == (["retry after 0.01"], ["ack"])
    assert (record.status, record.attempt, record.tries) == (JobStatus.COMPLETED, 2, 1)
    assert [text_of([frame]) for frame in frames] == ["", *ANSWER, "", ""], "no frame twice"
    assert orjson.loads(record.result or b"")["choices"][0]["message"]["content"] == WHOLE


@pytest.mark.parametrize(
    ("request_has", "prefix"), [({}, "one two"), ({"response_format": {"type": "json_object"}}, "")]
)
async def test_plain_text_is_continued_and_other_answers_are_replayed(
    request_has: dict[str, object], prefix: str
) -> None:
    async with open_bench(continues_text=True) as bench:
        job, delivery = await bench.submit("hang", request=request_has), await bench.delivery()
        async with bench.running(delivery) as execution:
            execution.stop(Interrupted())
        bench.engine.hold.set()

        await bench.run()

        assert bench.engine.prefixes == ["", prefix]
        assert text_of(await bench.frames(job)) == WHOLE


async def test_a_replay_that_diverges_ends_with_an_error_in_the_stream(bench: Bench) -> None:
    job = await bench.submit("change its mind")

    record = await bench.run_until(JobStatus.FAILED, job)

    assert record.error and record.error["code"] == "worker_lost"
    role, yes, error, done = await bench.frames(job)
    assert text_of([role, yes]) == "yes"
    assert (error, done) == ({"error": record.error}, "[DONE]")


@pytest.mark.parametrize("says", ["fail", "crash", "break off"])
async def test_a_job_that_always_fails_ends_after_the_last_try(bench: Bench, says: str) -> None:
    job = await bench.submit(says)

    record = await bench.run_until(JobStatus.FAILED, job)

    assert bench.engine.asked[says] == 3
    assert record.error and record.error["code"] == "attempts_exhausted"
    assert await bench.waiting() == 0


async def test_the_pause_before_a_try_doubles(bench: Bench) -> None:
    await bench.submit("fail")

    assert [(await bench.run()).settled for _ in range(3)] == [["retry after 0.01"], ["retry after 0.02"], ["ack"]]


async def test_a_job_that_killed_its_workers_is_not_run_again(bench: Bench) -> None:
    job = await bench.submit("answer")
    for number in range(4):
        await bench.backend.store.claim(job.id, f"dead-{number}", 30.0, lost=f"dead-{number - 1}")

    delivery = await bench.run()

    record = await bench.record(job)
    assert (record.status, record.error and record.error["code"]) == (JobStatus.FAILED, "attempts_exhausted")
    assert delivery.settled == ["ack"]
    assert not bench.engine.requests


# ── ended from outside ──


async def test_a_running_job_that_is_cancelled_keeps_its_partial_result(bench: Bench) -> None:
    job, delivery = await bench.submit("hang"), await bench.delivery()

    async with bench.running(delivery) as execution:
        execution.stop(Cancelled())

    record, frames = await bench.record(job), await bench.frames(job)
    assert (record.status, delivery.settled, bench.engine.aborted) == (JobStatus.CANCELLED, ["ack"], 1)
    assert orjson.loads(record.result or b"")["choices"][0]["message"]["content"] == "one two"
    assert [frames[-2], frames[-1]] == [{"error": record.error}, "[DONE]"]


async def test_a_lost_cancel_ends_the_job_at_the_next_lease_renewal(bench: Bench) -> None:
    bench.with_place(lease_seconds=0.3)
    job, delivery = await bench.submit("hang"), await bench.delivery()

    async with bench.running(delivery):
        await bench.backend.store.cancel(job.id, ended_with_nothing())

    assert ((await bench.record(job)).status, delivery.settled) == (JobStatus.CANCELLED, ["ack"])


async def test_a_job_cancelled_while_queued_is_only_acknowledged(bench: Bench) -> None:
    job = await bench.submit("answer")
    await bench.backend.store.cancel(job.id, ended_with_nothing())

    delivery = await bench.run()

    assert (delivery.settled, (await bench.record(job)).status) == (["ack"], JobStatus.CANCELLED)
    assert not bench.engine.requests


async def test_a_stop_before_the_claim_takes_effect(bench: Bench) -> None:
    job, delivery = await bench.submit("answer"), await bench.delivery()
    execution = bench.execution(delivery)

    execution.stop(Cancelled())
    await execution.run()

    assert ((await bench.record(job)).status, bench.engine.requests) == (JobStatus.CANCELLED, [])


async def test_the_deadline_ends_a_running_job(bench: Bench) -> None:
    job, delivery = await bench.submit("hang", deadline=0.3), await bench.delivery()

    async with bench.running(delivery):
        pass

    record = await bench.record(job)
    assert (record.status, record.error and record.error["code"]) == (JobStatus.EXPIRED, "deadline_exceeded")
    assert (delivery.settled, bench.engine.aborted) == (["ack"], 1)


async def test_a_stop_after_the_deadline_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stopped_late(_: ScriptedEngine, __: int) -> AsyncGenerator[Chunk, None]:
        yield chunk(delta("one"))
        try:
            await asyncio.Event().wait()
        finally:
            execution.stop(Cancelled())

    monkeypatch.setitem(SCRIPTS, "stopped late", stopped_late)
    job, delivery = await bench.submit("stopped late", deadline=0.3), await bench.delivery()
    execution = bench.execution(delivery)

    await execution.run()

    assert ((await bench.record(job)).status, delivery.settled) == (JobStatus.EXPIRED, ["ack"])


async def test_a_job_whose_deadline_passed_before_delivery_is_not_run(bench: Bench) -> None:
    job, delivery = await bench.submit("answer", deadline=0.05), await bench.delivery()
    await wait_until(lambda: time.time() > job.deadline_at, "the deadline")

    await bench.execution(delivery).run()

    assert ((await bench.record(job)).status, bench.engine.requests) == (JobStatus.EXPIRED, [])


async def test_a_drained_job_is_requeued_and_continued(any_bench: Bench) -> None:
    job, delivery = await any_bench.submit("hang"), await any_bench.delivery()

    async with any_bench.running(delivery) as execution:
        execution.stop(Interrupted())
    drained = await any_bench.record(job)
    any_bench.engine.hold.set()
    await any_bench.run()

    assert (drained.status, drained.tries, delivery.settled) == (JobStatus.QUEUED, 0, ["retry after 0"])
    record = await any_bench.record(job)
    assert (record.status, record.attempt, record.tries) == (JobStatus.COMPLETED, 2, 0)
    assert text_of(await any_bench.frames(job)) == WHOLE


# ── others have a hand in it ──


async def test_a_worker_past_its_lease_is_fenced(bench: Bench) -> None:
    bench.with_place(lease_seconds=0.3)
    job, delivery = await bench.submit("hang"), await bench.delivery()

    with capture_logs() as logs:
        async with bench.running(delivery):
            heir = await bench.backend.store.claim(job.id, "heir", 30.0, lost=WORKER)

    assert isinstance(heir, Claim)
    assert "attempt.fenced" in [line["event"] for line in logs]
    record = await bench.record(job)
    assert (record.status, record.owner, record.attempt) == (JobStatus.IN_PROGRESS, "heir", 2)
    assert text_of(await bench.frames(job)) == "one two"
    assert delivery.settled == ["ack"]


async def test_a_worker_that_continues_writing_is_fenced(bench: Bench) -> None:
    job, delivery = await bench.submit("hang"), await bench.delivery()

    async with bench.running(delivery):
        await bench.backend.store.claim(job.id, "heir", 30.0, lost=WORKER)
        bench.engine.hold.set()

    assert ((await bench.record(job)).owner, delivery.settled) == ("heir", ["ack"])
    assert text_of(await bench.frames(job)) == "one two"


async def test_of_two_deliveries_of_a_running_job_the_first_is_acked_at_once(
    bench: Bench,
) -> None:
    job, first = await bench.submit("hang"), await bench.delivery()

    async with bench.running(first) as execution:
        await bench.backend.queue.publish(first.message)
        last = await bench.delivery()
        await execution.adopt(last)
        assert (first.settled, last.settled) == (["ack"], [])
        bench.engine.hold.set()

    assert (first.settled, last.settled) == (["ack"], ["ack"])
    assert ((await bench.record(job)).status, await bench.waiting()) == (JobStatus.COMPLETED, 0)


async def test_the_redelivery_of_an_ended_job_is_only_acknowledged(bench: Bench) -> None:
    job, delivery = await bench.submit("answer"), await bench.delivery()
    claim = await claimed_by(bench, job, WORKER)
    await bench.backend.store.finish(job.id, claim.attempt, 0, ended_with_nothing(JobStatus.COMPLETED))

    await bench.execution(delivery).run()

    assert (delivery.settled, bench.engine.requests) == (["ack"], [])


async def test_the_delivery_of_an_unknown_job_is_only_acknowledged(bench: Bench) -> None:
    job = await bench.submit("answer")
    await bench.backend.store.discard(job)

    assert (await bench.run()).settled == ["ack"]
    assert not bench.engine.requests


async def test_a_job_of_a_live_worker_is_redelivered_later(bench: Bench) -> None:
    job, delivery = await bench.submit("answer"), await bench.delivery()

    async with bench.backend.registry.join(a_worker("worker-2")):
        await claimed_by(bench, job, "worker-2")
        await bench.execution(delivery).run()

    assert delivery.settled == ["retry after 1"]
    record = await bench.record(job)
    assert (record.owner, record.attempt, bench.engine.requests) == ("worker-2", 1, [])


async def test_a_dead_workers_job_is_taken_over_at_once_and_counted(bench: Bench) -> None:
    job, delivery = await bench.submit("answer"), await bench.delivery()
    await claimed_by(bench, job, "dead", lease=3600.0)

    await bench.execution(delivery).run()

    record = await bench.record(job)
    assert (record.status, record.attempt, record.tries) == (JobStatus.COMPLETED, 2, 1)
    assert delivery.settled == ["ack"]


async def test_a_cancelled_job_of_a_dead_worker_ends(bench: Bench) -> None:
    job, delivery = await bench.submit("answer"), await bench.delivery()
    async with bench.backend.registry.join(a_worker("dying")):
        await claimed_by(bench, job, "dying")
        await bench.backend.store.cancel(job.id, ended_with_nothing())

    await bench.execution(delivery).run()

    assert (delivery.settled, (await bench.record(job)).status) == (["ack"], JobStatus.CANCELLED)
    assert not bench.engine.requests


# ── blame ──


async def test_a_job_that_lost_two_workers_before_its_first_frame_is_quarantined(bench: Bench) -> None:
    job, delivery = await bench.submit("answer"), await bench.delivery()
    await claimed_by(bench, job, "dead-1", lease=3600.0)
    await claimed_by(bench, job, "dead-2", lease=3600.0, lost="dead-1")

    await bench.execution(delivery).run()

    record = await bench.record(job)
    assert (record.status, record.error and record.error["code"]) == (JobStatus.FAILED, "attempts_exhausted")
    assert not bench.engine.requests
    assert await bench.backend.store.body(job.id) is not None, "for whoever tries it again by hand"


async def test_an_unlogged_job_that_lost_its_worker_is_logged_from_then_on(bench: Bench) -> None:
    """Logged progress prevents its quarantine if it loses the next worker too."""
    job, delivery = await bench.submit("answer", unary=True), await bench.delivery()
    await claimed_by(bench, job, "dead", lease=3600.0)

    await bench.execution(delivery).run()

    record = await bench.record(job)
    assert record.status is JobStatus.COMPLETED
    assert text_of(await bench.frames(job)) == WHOLE
    assert orjson.loads(record.result or b"")["choices"][0]["message"]["content"] == WHOLE


async def test_a_job_that_failed_here_is_left_to_another_worker(bench: Bench) -> None:
    job = await bench.submit("fail once in the middle")
    async with bench.backend.registry.join(a_worker("worker-2")):
        await bench.run()
        left = await bench.run()
        record = await bench.record(job)
        assert left.settled == ["retry after 1"]
        assert (record.status, record.attempt, record.tries) == (JobStatus.QUEUED, 2, 1)

    await bench.run()

    assert (await bench.record(job)).status is JobStatus.COMPLETED, "there is nobody else any more"


async def test_an_invalid_request_body_fails_at_once(bench: Bench) -> None:
    job = new_job()
    await bench.backend.store.create(job, body=b"[1")
    await bench.backend.queue.publish(message_for(job, b"[1"))

    await bench.run()

    record = await bench.record(job)
    assert (record.status, record.tries) == (JobStatus.FAILED, 0)
    assert record.error and record.error["code"] == "invalid_json"


async def test_a_message_without_a_record_is_dropped(bench: Bench) -> None:
    """Embedded, message and record are in one file, so a job without a record was never accepted."""
    await bench.backend.queue.publish(message_for(new_job()))
    assert (await bench.run()).settled == ["ack"]
    assert not bench.engine.requests
