"""Batches with OpenAI's SDK: from the input file to the output files."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI, NotFoundError
from openai.types import Batch
from openai.types.responses import Response

from ignite.worker_process import working
from producer.batches.execution.outputs import FAN, Outputs
from producer.batches.execution.progress_writer import Overtaken, ProgressWriter
from producer.storage import LocalStorage
from tests.producer.api import Api, embedded_api, running_api
from tests.support.batches import (
    ENDPOINT,
    RESPONSES,
    assert_each_once,
    begun,
    jsonl,
    line,
    lines_of,
    outcome_of,
    over,
    response_line,
    text_of,
)
from tests.support.wait_until import wait_until
from worker.engines.simulated import SimulatedEngine


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with embedded_api(files_dir=tmp_path, batch_lines=1000, body_limit=10_000) as api:
        yield api


@pytest.fixture
async def client(api: Api) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client:
        yield client


async def test_a_batch_of_embeddings(client: AsyncOpenAI) -> None:
    def embed(number: int) -> dict[str, Any]:
        body = {"model": "simulated", "input": ["a", "b"] if number else []}
        return {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}

    batch = await begun(client, jsonl(map(embed, range(200))), endpoint="/v1/embeddings")
    done = await over(client, batch)
    answers, (failed,) = await outcome_of(client, done)
    assert {answer["custom_id"] for answer in answers} == {f"line-{number}" for number in range(1, 200)}
    assert all(len(answer["response"]["body"]["data"]) == 2 for answer in answers)
    assert failed["response"]["body"]["error"]["param"] == "input"
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens) == (398, 0)


@pytest.mark.parametrize(
    ("endpoint", "body", "answered"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": 2}, "choices"),
        ("/v1/rerank", {"query": "a", "documents": ["b", "a"]}, "results"),
    ],
)
async def test_a_batch_of_another_endpoint(client: AsyncOpenAI, endpoint: Any, body: Any, answered: str) -> None:
    one = {"custom_id": "one", "method": "POST", "url": endpoint, "body": {"model": "simulated", **body}}
    done = await over(client, await begun(client, jsonl([one]), endpoint=endpoint))
    ((answer,), failed) = await outcome_of(client, done)
    assert not failed
    assert answer["response"]["body"][answered]


async def test_every_line_is_answered_once(client: AsyncOpenAI) -> None:
    batch = await begun(client, jsonl(map(line, range(100))), metadata={"for": "a test"})
    assert (batch.object, batch.status, batch.endpoint) == ("batch", "validating", ENDPOINT)
    assert batch.expires_at == batch.created_at + 86_400

    done = await over(client, batch)
    assert (done.status, done.errors, done.error_file_id, done.model) == ("completed", None, None, "simulated")
    assert done.metadata == {"for": "a test"}
    assert done.request_counts is not None and done.usage is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (100, 100, 0)
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (100, 300, 400)
    moments = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert moments == sorted(moment for moment in moments if moment is not None)

    answers = await lines_of(client, done.output_file_id)
    assert_each_once(answers, range(100))
    assert len({answer["id"] for answer in answers}) == 100
    one = answers[0]
    assert set(one) == {"id", "custom_id", "response", "error"}
    assert one["id"].startswith("batch_req_") and one["error"] is None
    assert (one["response"]["status_code"], one["response"]["request_id"]) == (200, one["response"]["body"]["id"])

    assert done.output_file_id is not None
    file = await client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.status) == ("batch_output", "processed")
    assert [each.id async for each in client.files.list(purpose="batch_output")] == [file.id]
    assert [each.id async for each in client.batches.list()] == [batch.id]


async def test_lines_are_responses(client: AsyncOpenAI) -> None:
    stored = response_line(1, store=True)
    batch = await begun(client, jsonl([response_line(0), stored]), endpoint=RESPONSES)
    answers, _ = await outcome_of(client, await over(client, batch))
    assert batch.endpoint == RESPONSES
    bodies = {each["custom_id"]: each["response"]["body"] for each in answers}
    for number in range(2):
        response = Response.model_validate_json(orjson.dumps(bodies[f"line-{number}"]), strict=True)
        assert (response.status, response.output_text) == ("completed", text_of(number))
        assert response.metadata == {}
    kept = await client.responses.retrieve(bodies["line-1"]["id"])
    assert kept.output_text == text_of(1)
    with pytest.raises(NotFoundError):
        await client.responses.retrieve(bodies["line-0"]["id"])
    # A line may go on with what the tenant has stored; errors name the line's own fields.
    chained = response_line(2, previous_response_id=kept.id)
    wrong = response_line(3, previous_response_id="resp_x"), response_line(4, prompt="refuse")
    answers, errors = await outcome_of(
        client, await over(client, await begun(client, jsonl([chained, *wrong]), endpoint=RESPONSES))
    )
    assert [each["custom_id"] for each in answers] == ["line-2"]
    assert answers[0]["response"]["body"]["previous_response_id"] == kept.id
    params = {each["custom_id"]: each["response"]["body"]["error"]["param"] for each in errors}
    assert params == {"line-3": "previous_response_id", "line-4": "input"}


async def test_a_line_is_an_ordinary_job(api: Api, client: AsyncOpenAI) -> None:
    done = await over(client, await begun(client, jsonl([line(1, metadata={"mine": "x"})])))
    (answer,) = await lines_of(client, done.output_file_id)
    job = await api.job(answer["response"]["request_id"])
    assert (job["status"], job["service_tier"]) == ("completed", "flex")
    assert job["metadata"] == {"mine": "x", "batch_id": done.id, "custom_id": "line-1"}
    assert [each["id"] for each in await api.jobs(f"metadata[batch_id]={done.id}")] == [job["id"]]


async def test_failed_lines_are_in_the_error_file(client: AsyncOpenAI) -> None:
    lines = [line(0), line(1, prompt="refuse"), line(2, temperature=9), line(3)]
    done = await over(client, await begun(client, jsonl(lines)))
    output, errors = await outcome_of(client, done)
    assert done.status == "completed"
    assert_each_once(output, [0, 3])
    told = {each["custom_id"]: each["response"] for each in errors}
    assert set(told) == {"line-1", "line-2"}
    assert [told[name]["status_code"] for name in sorted(told)] == [400, 400]
    assert told["line-1"]["body"]["error"]["code"] == "context_length_exceeded"
    assert told["line-2"]["body"]["error"]["param"] == "temperature"


async def test_without_a_completed_line_there_is_no_output_file(client: AsyncOpenAI) -> None:
    done = await over(client, await begun(client, jsonl([line(1, prompt="refuse")])))
    assert (done.status, done.output_file_id) == ("completed", None)
    assert len(await lines_of(client, done.error_file_id)) == 1


GOOD = jsonl([line(1)])
BAD: dict[str, tuple[bytes, list[tuple[str, int | None, str | None]]]] = {
    "empty": (b"", [("empty_batch", None, None)]),
    "only blank lines": (b"\n \r\n", [("empty_batch", None, None)]),
    "bad JSON": (GOOD + b"{nope\n" + GOOD[:-5], [("invalid_json_line", 2, None), ("invalid_json_line", 3, None)]),
    "a duplicate": (GOOD + b"\n" + GOOD, [("duplicate_custom_id", 3, "custom_id")]),
    "a wrong url": (jsonl([line(1), {**line(2), "url": "/v1/responses"}]), [("invalid_url", 2, "url")]),
    "an unknown model": (jsonl([line(1), line(2, model="gpt-6")]), [("model_not_found", 2, "body.model")]),
    "a long line": (GOOD + b"x" * 20_000 + b"\n", [("line_too_long", 2, None)]),
    "too many lines": (jsonl(map(line, range(1001))), [("too_many_tasks", None, None)]),
    "not UTF-8": (b"\xff\xfe\n", [("invalid_json_line", 1, None)]),
}


@pytest.mark.parametrize("case", BAD)
async def test_an_invalid_file_fails_with_its_invalid_lines(client: AsyncOpenAI, case: str) -> None:
    data, expected = BAD[case]
    done = await over(client, await begun(client, data))
    assert done.status == "failed" and done.failed_at is not None
    assert done.errors is not None and done.errors.object == "list" and done.errors.data is not None
    assert [(error.code, error.line, error.param) for error in done.errors.data] == expected
    assert all(error.message for error in done.errors.data)
    assert (done.output_file_id, done.error_file_id) == (None, None)


async def test_line_ends_and_byte_order_marks_do_not_matter(client: AsyncOpenAI) -> None:
    data = b"\xef\xbb\xbf" + jsonl(map(line, range(3))).replace(b"\n", b"\r\n").rstrip()
    done = await over(client, await begun(client, data))
    assert done.status == "completed"
    assert_each_once(await lines_of(client, done.output_file_id), range(3))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": None}, "completion_window"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 2**63 - 1}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": True}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 7200.0}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 7200, "days": 1}}, "output_expires_after.days"),
        ({"output_expires_after": 7200}, "output_expires_after"),
        ({"completion_window": "9" * 30 + "d"}, "completion_window"),
        ({"completion_window": 24}, "completion_window"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"expires_after": {"anchor": "created_at", "seconds": 7200}}, "expires_after"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    ],
)
async def test_an_invalid_request_names_its_field(api: Api, changes: dict[str, Any], param: str) -> None:
    asked = {"input_file_id": "file-1", "endpoint": ENDPOINT, "completion_window": "24h"} | changes
    answer = await api.post({name: value for name, value in asked.items() if value is not None}, path="/v1/batches")
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_the_input_must_exist_and_have_the_purpose_batch(client: AsyncOpenAI) -> None:
    other = await client.files.create(file=("a.txt", b"x"), purpose="user_data")
    with pytest.raises(openai.NotFoundError):
        await client.batches.create(input_file_id="file-0", endpoint=ENDPOINT, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="user_data"):
        await client.batches.create(input_file_id=other.id, endpoint=ENDPOINT, completion_window="24h")


async def in_progress(client: AsyncOpenAI, batch: Batch, lines: int) -> Batch:
    """Waits until that many lines are answered, and returns the batch."""

    async def look() -> Batch:
        found = await client.batches.retrieve(batch.id)
        assert found.request_counts is not None and found.request_counts.completed >= lines, found
        return found

    return await wait_until(look, f"{lines} lines of {batch.id}")


async def test_output_can_be_read_while_it_grows(api: Api, client: AsyncOpenAI) -> None:
    slow = line(1, prompt="itl=100000", max_tokens=2)
    batch = await in_progress(client, await begun(client, jsonl([line(0), slow])), 1)
    assert batch.output_file_id is not None
    answer = await api.get(f"/v1/files/{batch.output_file_id}/content")
    assert (answer.headers["x-incomplete"], answer.headers["x-last-line"]) == ("true", "1")
    assert_each_once([answer.json], [0])
    file = await client.files.retrieve(batch.output_file_id)
    assert (file.status, file.bytes) == ("uploaded", len(answer.body))
    with pytest.raises(openai.ConflictError):
        await client.files.delete(file.id)

    await client.batches.cancel(batch.id)
    await over(client, batch)
    answer = await api.get(f"/v1/files/{batch.output_file_id}/content")
    assert "x-incomplete" not in answer.headers
    await client.files.delete(file.id)


async def test_a_cancelled_batch_keeps_finished_lines(client: AsyncOpenAI) -> None:
    lines = [line(0), *(line(number, prompt="itl=100000", max_tokens=2) for number in range(1, 200))]
    batch = await in_progress(client, await begun(client, jsonl(lines)), 1)
    cancelled = await client.batches.cancel(batch.id)
    assert cancelled.status == "cancelling" and cancelled.cancelling_at is not None
    done = await over(client, batch)
    output, errors = await outcome_of(client, done)
    assert done.status == "cancelled" and done.cancelled_at is not None
    assert_each_once(output, [0])
    assert {error["custom_id"] for error in errors} == {f"line-{number}" for number in range(1, 200)}
    assert len(errors) == 199
    assert {(error["response"], error["error"]["code"]) for error in errors} == {(None, "batch_cancelled")}
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 199)
    assert (await client.batches.cancel(batch.id)).status == "cancelled", "once more does no harm"


async def test_an_expired_batch_keeps_finished_lines(client: AsyncOpenAI) -> None:
    lines = [line(0), *(line(number, prompt="itl=100000", max_tokens=2) for number in range(1, 100))]
    done = await over(client, await begun(client, jsonl(lines), completion_window="2s"))
    output, errors = await outcome_of(client, done)
    assert done.status == "expired" and done.expired_at is not None
    assert_each_once(output, [0])
    assert len(errors) == 99
    assert {error["error"]["code"] for error in errors} == {"batch_expired"}


@asynccontextmanager
async def with_an_absent_model(files: Path) -> AsyncIterator[tuple[Api, AsyncOpenAI]]:
    async with (
        embedded_api(files_dir=files, models="simulated,absent", batch_window=10) as api,
        AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client,
    ):
        yield api, client


async def test_a_model_without_workers_does_not_delay_another_model(tmp_path: Path) -> None:
    lines = [line(number, model="absent" if number < 500 else "simulated") for number in range(600)]
    async with with_an_absent_model(tmp_path) as (api, client):
        batch = await in_progress(client, await begun(client, jsonl(lines)), 100)
        assert_each_once(await lines_of(client, batch.output_file_id), range(500, 600))
        assert (batch.status, len(await api.queued())) == ("in_progress", 10)

        engine = SimulatedEngine(model_id="absent", tokens=3)
        await engine.start()
        async with working(api.backend, engine, api.settings):
            done = await over(client, batch)
        assert done.status == "completed"
        assert_each_once(await lines_of(client, done.output_file_id), range(600))


async def test_lines_of_a_model_without_workers_wait_until_the_batch_expires(tmp_path: Path) -> None:
    lines = [line(number, model="absent" if number % 2 else "simulated") for number in range(100)]
    async with with_an_absent_model(tmp_path) as (_, client):
        done = await over(client, await begun(client, jsonl(lines), completion_window="3s"))
        output, errors = await outcome_of(client, done)
    assert done.status == "expired"
    assert_each_once(output, range(0, 100, 2))
    assert sorted(error["custom_id"] for error in errors) == sorted(f"line-{number}" for number in range(1, 100, 2))
    assert {error["error"]["code"] for error in errors} == {"batch_expired"}


async def test_an_ended_batch_cannot_be_cancelled(client: AsyncOpenAI) -> None:
    done = await over(client, await begun(client, GOOD))
    with pytest.raises(openai.ConflictError, match="completed"):
        await client.batches.cancel(done.id)


async def test_only_failed_lines_are_run_again(api: Api, client: AsyncOpenAI) -> None:
    lines = [line(0), line(1, prompt="break once"), line(2), line(3, prompt="refuse")]
    first = await over(client, await begun(client, jsonl(lines), metadata={"a": "b"}))
    assert first.request_counts is not None and first.request_counts.failed == 2
    answer = await api.post({}, path=f"/v1/batches/{first.id}/retry")
    assert (answer.status, answer.json["retry_of"], answer.json["metadata"]) == (200, first.id, {"a": "b"})
    again = await over(client, await client.batches.retrieve(answer.json["id"]))
    output, errors = await outcome_of(client, again)
    assert {each["custom_id"] for each in output + errors} == {"line-1", "line-3"}
    assert again.request_counts is not None and again.request_counts.total == 2

    fine = await over(client, await begun(client, GOOD))
    answer = await api.post({}, path=f"/v1/batches/{fine.id}/retry")
    assert (answer.status, answer.error["code"]) == (409, "nothing_failed")


async def test_a_batch_whose_input_is_deleted_fails_and_keeps_finished_lines(client: AsyncOpenAI, api: Api) -> None:
    api.engine.gate.clear()
    batch = await begun(client, jsonl(line(number, prompt="x" * 900) for number in range(999)))
    await wait_until(lambda: api.engine.working, "lines at work")
    await client.files.delete(batch.input_file_id)
    api.engine.gate.set()
    done = await over(client, batch)
    output, _ = await outcome_of(client, done)
    assert done.status in ("failed", "completed")
    assert done.request_counts is not None and len(output) == done.request_counts.completed


async def test_another_tenants_batches_are_404(tmp_path: Path) -> None:
    async with embedded_api(files_dir=tmp_path, api_keys="alice=sk-alice-1-0123456789,bob=sk-bob-12-0123456789") as api:
        alice, bob = (
            AsyncOpenAI(base_url=api.url, api_key=key, max_retries=0)
            for key in ("sk-alice-1-0123456789", "sk-bob-12-0123456789")
        )
        batch = await over(alice, await begun(alice, GOOD))
        for call in (bob.batches.retrieve, bob.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(batch.id)
        with pytest.raises(openai.NotFoundError):
            await bob.batches.create(input_file_id=batch.input_file_id, endpoint=ENDPOINT, completion_window="24h")
        assert batch.output_file_id is not None
        with pytest.raises(openai.NotFoundError):
            await bob.files.content(batch.output_file_id)
        assert [each.id async for each in bob.batches.list()] == []
        await alice.close()
        await bob.close()


# ── takeover ──


async def test_a_runner_that_was_overtaken_cannot_write(api: Api, client: AsyncOpenAI) -> None:
    done = await over(client, await begun(client, GOOD))
    batches = api.context.batches
    old = await ProgressWriter.take_over(batches, "local", done.id)
    new = await ProgressWriter.take_over(batches, "local", done.id)
    assert old is not None and new is not None
    with pytest.raises(Overtaken):
        await old.commit(lambda batch: batch.with_(completed=100))
    with pytest.raises(Overtaken):
        await old.refresh()
    after = await new.commit(lambda batch: batch.with_(completed=2))
    assert (await batches.get("local", done.id)) == after


async def test_a_concurrent_cancel_is_kept(api: Api, client: AsyncOpenAI) -> None:
    api.engine.gate.clear()
    batch = await begun(client, GOOD)
    await wait_until(lambda: api.engine.working, "the line at work")
    await client.batches.cancel(batch.id)
    api.engine.gate.set()
    assert (await over(client, batch)).status == "cancelled"


async def test_another_replica_continues_a_batch(tmp_path: Path) -> None:
    """The first replica stops with lines started, answered and open; the second one continues each of them."""
    async with embedded_api(files_dir=tmp_path, batch_lease=1, batch_window=20) as api:
        async with running_api(api.backend, api.settings, worker=False) as doomed:
            await api.context.health.close()  # This replica runs no batches for now.
            client = AsyncOpenAI(base_url=doomed.url, api_key="none", max_retries=0)
            lines = [line(number, prompt=f"seed={number} ttft={200 if number >= 50 else 0}") for number in range(200)]
            batch = await begun(client, jsonl(lines))
            await in_progress(client, batch, 30)
            api.engine.gate.clear()
            await client.close()
        api.engine.gate.set()
        api.context.health.run("batches", api.context.runners.run())
        async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client:
            done = await over(client, await client.batches.retrieve(batch.id))
            assert done.status == "completed"
            assert_each_once(await lines_of(client, done.output_file_id), range(200))
        kept, _ = await api.context.batches.find("local", batch.id) or (None, 0)
        assert kept is not None and kept.generation >= 2


async def test_small_segments_are_merged(tmp_path: Path, api: Api, client: AsyncOpenAI) -> None:
    done = await over(client, await begun(client, GOOD))
    batch = await api.context.batches.get("local", done.id)
    outputs, output = Outputs(LocalStorage(tmp_path), batch), batch.error
    for number in range(FAN * FAN):
        segment = await outputs.write(output, [b"%d\n" % number])
        grown = output.model_copy(update={"segments": (*output.segments, segment)})
        output = await outputs.merged(grown)
        await outputs.delete_merged(grown, output)
    (one,) = output.segments
    assert (one.level, one.lines, one.size) == (2, FAN * FAN, sum(len(b"%d\n" % number) for number in range(FAN * FAN)))
    data = b"".join([chunk async for chunk in LocalStorage(tmp_path).read(one.key, 0, one.size)])
    assert data == b"".join(b"%d\n" % number for number in range(FAN * FAN))


async def test_both_backends_behave_alike(distributed_api: Api, tmp_path: Path) -> None:
    async with AsyncOpenAI(base_url=distributed_api.url, api_key="none", max_retries=0) as client:
        lines = [line(number, prompt="refuse" if number % 10 == 3 else None) for number in range(100)]
        done = await over(client, await begun(client, jsonl(lines)))
        output, errors = await outcome_of(client, done)
        assert done.status == "completed"
        assert_each_once(output, [number for number in range(100) if number % 10 != 3])
        assert len(errors) == 10
