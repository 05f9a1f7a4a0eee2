"""A line's request as its job has it, and its answer as the line's endpoint answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from producer.batches.input.lines import BatchLine, RawLine
from producer.jobs.service import JobService
from producer.responses.request import check_responses_request
from producer.responses.stored import StoredResponses
from producer.responses.translate import renamed, translated
from shared.errors import IgniteError
from shared.job import Api, Job
from shared.schema import JobRequest, check_call, check_request

APIS: Mapping[str, Api] = {
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/responses": "responses",
}
"""The APIs of a batch's endpoints; any other is chat."""


@dataclass(frozen=True, slots=True)
class LineRequest:
    """`body`: the job's request. `size`: its bytes that go to the engine."""

    request: JobRequest
    body: bytes
    size: int


class LineRequests:
    """`limit`: bytes that a request may have."""

    def __init__(self, service: JobService, endpoint: str, *, tenant: str, limit: int) -> None:
        self._service = service
        self._responses = StoredResponses(service, limit)
        self._tenant = tenant
        self._limit = limit
        self.api: Api = APIS.get(endpoint, "chat")

    async def of(self, raw: RawLine, line: BatchLine) -> LineRequest:
        """Returns the line's request, checked. Raises InvalidRequest."""
        data = raw.data or b""
        if self.api != "responses":
            request = await self._service.checks.run(data, lambda: self._checked(line))
            return LineRequest(request, orjson.dumps(line.body), size=len(data))
        # The answer is in the batch's output: a response is stored only if its line says so.
        body = {"store": False, **line.body}
        asked = await self._service.checks.run(data, lambda: check_responses_request(body))
        earlier = await self._responses.earlier(self._tenant, asked)
        limit = self._limit + len(data)
        found = await self._service.checks.run(data, lambda: translated(asked, earlier, background=False, limit=limit))
        return LineRequest(found.request, found.body, size=found.prompt_bytes)

    def _checked(self, line: BatchLine) -> JobRequest:
        match self.api:
            case "chat" | "responses":
                return check_request(line.body, stream=False)
            case api:
                return check_call(line.body, api)

    async def answer(self, job: Job) -> bytes:
        """Returns the body of a completed job's answer. Raises Gone."""
        if self.api != "responses":
            return await self._service.result(job)
        replayed = await self._responses.replayed(job, await self._responses.kept(job))
        return orjson.dumps(replayed.response)

    def told(self, error: IgniteError) -> IgniteError:
        """Returns the error with the names of the line's fields."""
        return renamed(error) if self.api == "responses" else error
