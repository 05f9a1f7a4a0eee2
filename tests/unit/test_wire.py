"""OpenAI's shapes, made of jobs and completions."""

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from producer.http.response_models import ChatCompletionChunk
from producer.http.response_models import Job as JobShape
from producer.http.serializers import etag, job_object, page, unfold
from shared.frames import DONE
from shared.job import Job, JobStatus, Tier
from worker.stream.fold import fold

moments = st.none() | st.floats(0, 4e9)
jobs = st.builds(
    Job,
    id=st.just("chatcmpl-1"),
    tenant=st.just("t"),
    model=st.text(min_size=1),
    tier=st.sampled_from(Tier),
    mode=st.sampled_from(["unary", "stream"]),
    created_at=st.floats(0, 4e9),
    deadline_at=st.floats(0, 4e9),
    retention=st.just(60.0),
    status=st.sampled_from(JobStatus),
    attempt=st.integers(0, 9),
    started_at=moments,
    first_token_at=moments,
    finished_at=moments,
    expires_at=moments,
    chunks=st.integers(0, 10**6),
    usage=st.none() | st.just({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}) | st.just({}),
    result=st.none() | st.just(b'{"object":"chat.completion"}'),
    metadata=st.dictionaries(st.text(), st.text(), max_size=2),
)

texts = st.none() | st.text(min_size=1)
calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(min_size=1),
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": st.text(min_size=1), "arguments": st.text()}),
        }
    ),
    min_size=1,
    max_size=2,
)


def message(content: str | None, tool_calls: list[Any] | None) -> dict[str, Any]:
    said = {"role": "assistant", "content": content or (None if tool_calls else ""), "refusal": None}
    return said | ({"tool_calls": tool_calls} if tool_calls else {})


completions = st.lists(
    st.builds(message, texts, st.none() | calls),
    min_size=1,
    max_size=3,
).map(
    lambda messages: {
        "id": "chatcmpl-1",
        "created": 1,
        "model": "m",
        "service_tier": "default",
        "object": "chat.completion",
        "choices": [
            {"index": index, "message": said, "logprobs": None, "finish_reason": "stop"}
            for index, said in enumerate(messages)
        ],
        "usage": None,
    }
)


@given(job=jobs, position=st.none() | st.integers(0, 10**6), eta=st.none() | st.floats(0, 1e6))
def test_any_job_has_the_shape_that_is_described(job: Job, position: int | None, eta: float | None) -> None:
    job.usage = job.usage or None
    shown = json.loads(orjson.dumps(job_object(job, position=position, eta=eta)))
    JobShape.model_validate(shown, extra="forbid")
    assert (shown["queue"] is None) == (job.status is not JobStatus.QUEUED)


def test_tokens_are_counted_by_chunks_until_the_engine_tells() -> None:
    job = Job("chatcmpl-1", "t", "m", Tier.DEFAULT, "stream", 0, 0, 60, chunks=5)
    assert job_object(job)["progress"] == {"chunks": 5, "completion_tokens": 4}
    job.usage = {"completion_tokens": 7}
    assert job_object(job)["progress"] == {"chunks": 5, "completion_tokens": 7}


def test_the_etag_changes_with_whatever_a_poll_shows() -> None:
    job = Job("chatcmpl-1", "t", "m", Tier.DEFAULT, "stream", 0, 0, 60)
    tags = [etag(job), etag(job, 1, 1), etag(job, 0, 1), etag(job, 0, 0)]
    job.status, job.attempt = JobStatus.IN_PROGRESS, 1
    tags.append(etag(job))
    job.chunks = 1
    tags.append(etag(job))
    assert len(set(tags)) == len(tags)


@given(completions)
def test_unfolding_is_folding_backwards(completion: dict[str, Any]) -> None:
    frames = unfold(orjson.dumps(completion))
    assert frames.endswith(DONE)
    chunks = [json.loads(text.removeprefix(b"data: ")) for text in frames.split(b"\n\n")[:-2]]
    assert fold(chunks) == completion
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, extra="forbid")
    assert unfold(orjson.dumps(completion)) == frames


def test_a_page_names_its_ends() -> None:
    assert page([{"id": "a"}, {"id": "b"}], has_more=True) == {
        "object": "list",
        "data": [{"id": "a"}, {"id": "b"}],
        "first_id": "a",
        "last_id": "b",
        "has_more": True,
    }
