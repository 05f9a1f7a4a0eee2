"""The lease: renewed while the work runs, reported once when it is lost."""

import asyncio
from typing import Any

from structlog.testing import capture_logs

from shared.errors import BackendUnavailable
from shared.ports import AttemptFenced, Claim, JobStore
from tests.support.wait_until import wait_until
from worker import lease

CLAIM = Claim("job", attempt=3, tries=0, lost=0, offset=0)
SHORT = 0.03


class ScriptedStore:
    """Answers renewals from a list, and repeats the last answer."""

    def __init__(self, *answers: Exception | None) -> None:
        self._answers = list(answers)
        self.renewals: list[tuple[str, int, float]] = []

    async def renew(self, job_id: str, attempt: int, seconds: float) -> None:
        self.renewals.append((job_id, attempt, seconds))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is not None:
            raise answer


def held(store: ScriptedStore, lost: list[AttemptFenced], seconds: float = SHORT) -> Any:
    scripted: Any = store
    port: JobStore = scripted
    return lease.held(port, CLAIM, seconds, lost=lost.append)


async def test_the_lease_is_renewed_while_the_work_runs() -> None:
    store, lost = ScriptedStore(None), list[AttemptFenced]()

    async with held(store, lost):
        await wait_until(lambda: len(store.renewals) >= 3, "three renewals")

    assert (set(store.renewals), lost) == ({("job", 3, SHORT)}, [])


async def test_short_work_needs_no_renewal() -> None:
    store = ScriptedStore(None)

    async with held(store, [], seconds=60.0):
        pass

    assert store.renewals == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("lease")]


async def test_a_lost_claim_is_reported_once_and_not_renewed() -> None:
    store, lost = ScriptedStore(None, AttemptFenced(None, cancelling=True)), list[AttemptFenced]()

    async with held(store, lost):
        await wait_until(lambda: lost, "the news")

    assert (len(lost), lost[0].cancelling, len(store.renewals)) == (1, True, 2)


async def test_an_unavailable_store_does_not_stop_the_work() -> None:
    store, lost = ScriptedStore(BackendUnavailable("away"), BackendUnavailable("away"), None), list[AttemptFenced]()

    with capture_logs() as logs:
        async with held(store, lost):
            await wait_until(lambda: len(store.renewals) >= 4, "renewals to go on")

    assert (lost, [line["event"] for line in logs]) == ([], ["lease.not_renewed"] * 2)


async def test_the_end_of_the_work_cancels_a_running_renewal() -> None:
    class Stuck(ScriptedStore):
        async def renew(self, job_id: str, attempt: int, seconds: float) -> None:
            await super().renew(job_id, attempt, seconds)
            await asyncio.Event().wait()

    store = Stuck(None)
    async with held(store, []):
        await wait_until(lambda: store.renewals, "a renewal")

    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("lease")]
