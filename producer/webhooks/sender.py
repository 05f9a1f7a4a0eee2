"""Sends a signed event to a job's webhook when the job has ended, at least once. The outbox holds the events that are
not delivered yet; jobs do not wait for their webhooks.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson
import structlog

from producer.jobs.submission import WEBHOOK_RETRY_FOR
from producer.metrics import WEBHOOKS
from producer.responses.ids import response_id
from producer.responses.response import finish_reason_of
from producer.responses.response import status_of as response_status
from producer.webhooks.target import connector, host_of, sendable
from shared.errors import BackendUnavailable, sentence
from shared.job import Job
from shared.outages import Outage
from shared.ports import Backend, Notice

log = structlog.get_logger(__name__)

EVERY = 1.0
"""Seconds between polls of the outbox."""

AT_ONCE = 64
"""Events sent concurrently: slow receivers delay others only when they fill all of these slots."""

TIMEOUT = 10.0
"""Seconds within which a receiver must answer."""

HOLD = 30.0
"""Seconds after which another replica may send a notice that this one took and did not finish."""

RECHECK = 60.0
"""Seconds until a job that has not ended is read again; its end makes the notice due at once."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3_600.0
"""Bounds of the back-off between two tries, in seconds."""

GONE = 410
"""HTTP status by which the receiver refuses further tries."""


@dataclass(frozen=True, slots=True)
class Event:
    """A webhook event. Its id stays the same when it is sent again, and differs for each attempt of the job."""

    id: str
    body: bytes

    @classmethod
    def of(cls, job: Job) -> Event:
        ended = job.finished_at or 0.0
        id = f"evt_{hashlib.sha256(f'{job.id} {job.attempt} {ended}'.encode()).hexdigest()[:32]}"
        kind, about = f"chat.completion.{job.status}", job.id
        if job.api == "responses":
            kind, about = f"response.{response_status(job, finish_reason_of(job))}", response_id(job.id)
        event = {"id": id, "object": "event", "type": kind, "created_at": int(ended), "data": {"id": about}}
        return cls(id, orjson.dumps(event))


def signed(event: Event, secret: str, timestamp: int) -> dict[str, str]:
    """Returns the headers of Standard Webhooks: https://www.standardwebhooks.com."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.digest(key, f"{event.id}.{timestamp}.".encode() + event.body, "sha256")
    return {
        "webhook-id": event.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


class Sender:
    def __init__(self, session: aiohttp.ClientSession, secret: str, *, private_allowed: bool) -> None:
        self._session = session
        self._secret = secret
        self._private_allowed = private_allowed

    async def send(self, url: str, event: Event) -> int | str:
        """Sends the event; returns the receiver's HTTP status, or the error as text."""
        target = sendable(url, private_allowed=self._private_allowed)
        if isinstance(target, str):
            return target
        headers = {"content-type": "application/json", **signed(event, self._secret, int(time.time()))}
        try:
            async with self._session.post(target, data=event.body, headers=headers, allow_redirects=False) as response:
                return response.status
        except TimeoutError:
            return f"no answer within {TIMEOUT:.0f} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return sentence(error)


@asynccontextmanager
async def open_sender(secret: str, *, private_allowed: bool) -> AsyncGenerator[Sender]:
    async with aiohttp.ClientSession(
        connector=connector(private_allowed=private_allowed, limit=AT_ONCE),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        headers={"user-agent": "Ignite"},
    ) as session:
        yield Sender(session, secret, private_allowed=private_allowed)


class Announcer:
    """Sends the events in the outbox. Replicas share it: after HOLD seconds another replica retries."""

    def __init__(self, backend: Backend, sender: Sender) -> None:
        self._backend = backend
        self._sender = sender
        self._busy = 0
        self._outage = Outage()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as announcements:
            while True:
                room = AT_ONCE - self._busy
                notices = await self._take(room) if room else ()
                for notice in notices:
                    self._busy += 1
                    announcements.create_task(self._announce(notice), name=f"webhook {notice.job_id}")
                if len(notices) == room:
                    await asyncio.sleep(0.0 if room else EVERY / 10)
                else:
                    await asyncio.sleep(EVERY)

    async def _take(self, room: int) -> Sequence[Notice]:
        try:
            notices = await self._backend.outbox.take(room, HOLD)
        except BackendUnavailable as error:
            if self._outage.begins():
                log.warning("outbox.unavailable", error=str(error), next="looking again")
            return ()
        if (seconds := self._outage.ends()) is not None:
            log.info("outbox.back", after=seconds)
        return notices

    async def _announce(self, notice: Notice) -> None:
        try:
            await self._deliver(notice)
        except BackendUnavailable as error:
            log.warning("webhook.unsettled", job=notice.job_id, error=str(error), next="it is sent again")
        finally:
            self._busy -= 1

    async def _deliver(self, notice: Notice) -> None:
        job = await self._backend.store.get(notice.job_id)
        if job is None or job.webhook_url is None:
            await self._backend.outbox.forget(notice)
        elif not job.status.terminal:
            await self._backend.outbox.put_back(notice, RECHECK)
        elif (again_in := await self._send(job, job.webhook_url)) is None:
            await self._backend.outbox.forget(notice)
        else:
            await self._backend.outbox.put_back(notice, again_in)

    async def _send(self, job: Job, url: str) -> float | None:
        """Sends the event; returns the seconds until the next try, None when there is none."""
        event = Event.of(job)
        answer = await self._sender.send(url, event)
        again_in = None if accepted(answer) else pause(time.time() - (job.finished_at or 0.0))
        WEBHOOKS.labels("delivered" if accepted(answer) else "failed" if again_in else "given_up").inc()
        if not accepted(answer):
            next_step = f"sending it again in {again_in:.0f} s" if again_in else "not sent again"
            log.warning("webhook.failed", job=job.id, host=host_of(url), answer=answer, next=next_step)
        return again_in if answer != GONE else None


def accepted(answer: int | str) -> bool:
    return isinstance(answer, int) and 200 <= answer < 300


def pause(age: float) -> float | None:
    """Returns the seconds until an event of `age` seconds is sent again: about its age. None: it is too old."""
    if age > WEBHOOK_RETRY_FOR:
        return None
    return min(max(age, FIRST_PAUSE), LONGEST_PAUSE) * random.uniform(0.8, 1.2)


async def announce_endings(backend: Backend, secret: str, *, private_allowed: bool) -> None:
    async with open_sender(secret, private_allowed=private_allowed) as sender:
        await Announcer(backend, sender).run()
