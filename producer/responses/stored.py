"""Stored responses: found by their ids, read from the logs of their jobs, and built upon by later ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from producer.jobs.service import JobService
from producer.responses.conversation import Resource
from producer.responses.events import ResponseEvents
from producer.responses.ids import ItemPlace, item_place, job_id_of, response_id
from producer.responses.items import ItemReference
from producer.responses.kept import Kept, kept_of
from producer.responses.request import ResponsesRequest
from producer.responses.response import STATUSES, response_object
from producer.responses.translate import Earlier
from shared.errors import IgniteError, InvalidRequest, NotFound
from shared.job import Job, JobStatus

MOST_REFERRED = 64
"""Responses whose items one request may name."""

NO_EVENTS = 2**63


class StoredResponses:
    """A tenant's responses. `limit`: bytes of items that a request may build upon."""

    def __init__(self, service: JobService, limit: int) -> None:
        self._service = service
        self._limit = limit

    async def job(self, tenant: str, response: str) -> Job:
        """Returns the response's job. Raises NotFound, Gone."""
        job_id = job_id_of(response)
        try:
            job = None if job_id is None else await self._service.get(tenant, job_id)
        except NotFound:
            job = None
        if job is None or job.api != "responses" or not job.stored:
            raise NotFound(f"Response with id '{response[:100]}' not found.")
        return job

    async def kept(self, job: Job) -> Kept:
        """Returns what the job's request keeps. Raises Gone."""
        return (await self._request(job))[0]

    async def _request(self, job: Job) -> tuple[Kept, list[dict[str, Any]]]:
        body = await self._service.request_of(job)
        return await self._service.checks.run(body, lambda: kept_of(body))

    async def object(self, job: Job, kept: Kept) -> dict[str, Any]:
        """Returns the response as it stands."""
        if not job.status.terminal:
            return response_object(job, kept, status=STATUSES[job.status])
        return (await self.replayed(job, kept)).response

    async def replayed(self, job: Job, kept: Kept) -> ResponseEvents:
        """Returns the events' state at the end of a job that is over."""
        events = ResponseEvents(job, kept, after=NO_EVENTS)
        if job.chunks:
            await self._feed(job, events)
        elif job.status is JobStatus.COMPLETED:
            events.feed_completion(orjson.loads(await self._service.result(job)))
        events.end(job)
        return events

    async def _feed(self, job: Job, events: ResponseEvents) -> None:
        async with self._service.attach(job) as call:
            while (update := await call.follower.next()) is not None:
                events.feed(update.data)
                if update.ending is not None:
                    return
                await asyncio.sleep(0)  # A long log takes a while: other calls get their turn.

    # ── to build upon ──

    async def earlier(self, tenant: str, request: ResponsesRequest) -> Earlier:
        """Returns what the request builds upon. Raises InvalidRequest."""
        items = await self._referred(tenant, request)
        if request.previous_response_id is None:
            return Earlier(items=items)
        job = await self._previous(tenant, request.previous_response_id)
        kept, messages = await self._request(job)
        return Earlier(messages, (await self.replayed(job, kept)).output, items)

    async def _previous(self, tenant: str, response: str) -> Job:
        try:
            job = await self.job(tenant, response)
        except InvalidRequest:
            raise InvalidRequest(
                f"Previous response with id '{response[:100]}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from None
        if job.status is not JobStatus.COMPLETED:
            reason = "it has not ended yet" if not job.status.terminal else f"it is {STATUSES[job.status]}"
            raise InvalidRequest(
                f"Previous response with id '{response}' cannot be continued: {reason}.",
                param="previous_response_id",
                code="previous_response_not_completed",
            )
        return job

    async def _referred(self, tenant: str, request: ResponsesRequest) -> Mapping[str, Resource]:
        """Returns the items that the request names, by their ids. A name that is repeated counts each time: the request
        is built with as many copies.
        """
        found: dict[str, Resource] = {}
        loaded: dict[tuple[str, bool], dict[str, Resource]] = {}
        sizes: dict[str, int] = {}
        read = named = 0
        for index, item in enumerate(request.items):
            if not isinstance(item, ItemReference):
                continue
            path = f"input[{index}].id"
            if item.id not in found:
                place = item_place(item.id)
                if place is None:
                    raise unknown_item(item.id, path)
                source = place.job_id, place.in_input
                if source not in loaded:
                    if len(loaded) >= MOST_REFERRED:
                        message = f"The input names items of more than {MOST_REFERRED} responses."
                        raise InvalidRequest(message, param=path)
                    items = await self._items(tenant, place)
                    loaded[source] = {each["id"]: each for each in reversed(items)}
                    read += len(orjson.dumps(items))
                if item.id not in loaded[source]:
                    raise unknown_item(item.id, path)
                found[item.id] = loaded[source][item.id]
                sizes[item.id] = len(orjson.dumps(found[item.id]))
            named += sizes[item.id]
            if max(read, named) > self._limit:
                raise self._too_large(path)
        return found

    async def _items(self, tenant: str, place: ItemPlace) -> list[Resource]:
        """Returns the input or the output items of a response; none if the tenant has no such response."""
        try:
            job = await self.job(tenant, response_id(place.job_id))
            kept = await self.kept(job)
        except InvalidRequest:
            return []
        if place.in_input:
            return kept.input_items(job.id)
        return (await self.replayed(job, kept)).output if job.status.terminal else []

    def _too_large(self, path: str) -> InvalidRequest:
        return InvalidRequest(f"The items that the input names have more than {self._limit:,} bytes.", param=path)


def unknown_item(item_id: str, path: str) -> IgniteError:
    return NotFound(f"Item with id '{item_id[:100]}' not found.", param=path)
