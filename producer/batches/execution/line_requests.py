"""A line's request as a chat request, and its answer as the line's endpoint answers."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from producer.batches.input.lines import BatchLine, RawLine
from producer.jobs.service import JobService
from producer.responses.request import check_responses_request
from producer.responses.stored import StoredResponses
from producer.responses.translate import renamed, translated
from shared.errors import IgniteError
from shared.job import Api, Job
from shared.schema import ChatCompletionRequest, check_request

RESPONSES = "/v1/responses"


@dataclass(frozen=True, slots=True)
class LineRequest:
    """`body`: the job's request. `size`: its bytes that go to the engine."""

    request: ChatCompletionRequest
    body: bytes
    size: int


class LineRequests:
    """`limit`: bytes that a request may have."""

    def __init__(self, service: JobService, endpoint: str, *, tenant: str, limit: int) -> None:
        self._service = service
        self._responses = StoredResponses(service, limit)
        self._tenant = tenant
        self._limit = limit
        self.api: Api = "responses" if endpoint == RESPONSES else "chat"

    async def of(self, raw: RawLine, line: BatchLine) -> LineRequest:
        """Returns the line's request, checked. Raises InvalidRequest."""
        data = raw.data or b""
        if self.api == "chat":
            chat = await self._service.checks.run(data, lambda: check_request(line.body, stream=False))
            return LineRequest(chat, orjson.dumps(line.body), size=len(data))
        # The answer is in the batch's output: a response is stored only if its line says so.
        body = {"store": False, **line.body}
        asked = await self._service.checks.run(data, lambda: check_responses_request(body))
        earlier = await self._responses.earlier(self._tenant, asked)
        limit = self._limit + len(data)
        found = await self._service.checks.run(data, lambda: translated(asked, earlier, background=False, limit=limit))
        return LineRequest(found.request, found.body, size=found.prompt_bytes)

    async def answer(self, job: Job) -> bytes:
        """Returns the body of a completed job's answer. Raises Gone."""
        if self.api == "chat":
            return await self._service.result(job)
        replayed = await self._responses.replayed(job, await self._responses.kept(job))
        return orjson.dumps(replayed.response)

    def told(self, error: IgniteError) -> IgniteError:
        """Returns the error with the names of the line's fields."""
        return renamed(error) if self.api == "responses" else error
