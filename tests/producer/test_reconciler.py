"""The reconciler publishes a lost job that a client waits for again, and cancels one that serves no client."""

import time
from collections.abc import AsyncIterator

import pytest

from producer.auth.keyring import LOCAL_TENANT
from producer.jobs.reconciler import Reconciler
from shared.backends.distributed import DistributedBackend, open_distributed
from shared.job import Job, QueueName, Tier, new_job_id
from tests.producer.api import MODEL, Api, ask
from tests.support.wait_until import wait_until

QUEUE = QueueName(MODEL, Tier.DEFAULT)


@pytest.fixture
async def dying(amqp_url: str, redis_url: str) -> AsyncIterator[DistributedBackend]:
    """The service of an API that dies between a job's record and its message."""
    async with open_distributed(amqp_url, redis_url) as backend:
        yield backend


def new_job(*, detached: bool = False) -> Job:
    now = time.time()
    return Job(new_job_id(now), LOCAL_TENANT, MODEL, Tier.DEFAULT, "stream", now, now + 600, 60, detached=detached)


async def swept(api: Api) -> int:
    return await Reconciler(api.backend, api.service, api.context.catalog).sweep(QUEUE, 0.0)


async def test_an_unaccepted_call_of_a_dead_api_is_cancelled(distributed_api: Api, dying: DistributedBackend) -> None:
    job = new_job()
    await dying.store.create(job, body=b"{}", followed=True)
    await dying.close()
    await wait_until(lambda: nobody_follows(distributed_api, job.id), "its API to be missed")

    assert await swept(distributed_api) == 1

    assert (await distributed_api.ended(job.id))["status"] == "cancelled"
    assert distributed_api.engine.asked == []


async def nobody_follows(api: Api, job_id: str) -> bool:
    return not await api.backend.log.followed(job_id)


@pytest.mark.parametrize("detached", [False, True])
async def test_a_job_with_a_waiting_or_possible_client_is_run(
    distributed_api: Api, dying: DistributedBackend, detached: bool
) -> None:
    job = new_job(detached=detached)
    await dying.store.create(job, body=str(ask()).replace("'", '"').encode(), followed=not detached)

    assert await swept(distributed_api) == 1

    assert (await distributed_api.ended(job.id))["status"] == "completed"
