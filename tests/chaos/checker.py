"""The invariants after a campaign. Pure functions from the ledger and the aftermath to violations,
one sentence each.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby

from tests.chaos.aftermath import Aftermath, JobState
from tests.chaos.ledger import GIVEN_UP, STREAMED, Call, End, Ledger, Use
from tests.chaos.load import OVER
from tests.chaos.reading import (
    about,
    content_in,
    difference,
    error_of,
    events_of,
    is_error,
    marks_in,
    named,
    not_whole,
    numbers_wrong,
    status_in,
    texts,
    words_in,
    wrong_log,
)

CLOCKS = 0.5
"""Seconds by which a kill and its observation by clients may seem out of order."""


@dataclass(frozen=True)
class Evidence:
    ledger: Ledger
    aftermath: Aftermath

    def job_of(self, call: Call) -> str:
        """Finds the job of a call by the answer's header, or without one by the tag in the list."""
        return call.job_id or next((job for job, tag in self.aftermath.listed.items() if tag == call.tag), "")

    def jobs(self) -> Iterator[tuple[str, JobState, Call | None]]:
        by_tag = {call.tag: call for call in self.ledger.calls}
        by_id = {call.job_id: call for call in self.ledger.calls if call.job_id}
        for job_id, state in self.aftermath.jobs.items():
            yield job_id, state, by_tag.get(state.tag) or by_id.get(job_id)


def check(ledger: Ledger, aftermath: Aftermath) -> list[str]:
    evidence = Evidence(ledger, aftermath)
    return list(chain.from_iterable(invariant(evidence) for invariant in INVARIANTS))


# ── calls ──


def refusals_are_honest(evidence: Evidence) -> Iterator[str]:
    """A refusal must be 429 or 503, with a JSON error and Retry-After."""
    for call in evidence.ledger.calls:
        for answer in call.all_answers:
            if answer.status in (0, 200, 202):
                continue
            if answer.status not in (429, 503):
                yield f"{named(call)}: {answer.path} answered {answer.status}: {answer.data[:200]!r}"
            elif not answer.retry_after.isdigit() or not is_error(answer.json()):
                yield f"{named(call)}: a {answer.status} without Retry-After or a JSON error: {answer.data[:200]!r}"


def only_killed_apis_cut_their_calls(evidence: Evidence) -> Iterator[str]:
    killed = evidence.ledger.killed
    for call in evidence.ledger.calls:
        for answer in call.all_answers:
            if answer.end is End.CUT and killed.get(answer.api, float("inf")) > answer.ended + CLOCKS:
                yield f"{named(call)}: {answer.path} was cut by {answer.api}, which was not killed: {answer.error}"


def every_call_ends(evidence: Evidence) -> Iterator[str]:
    for call in evidence.ledger.calls:
        if call.open:
            yield f"{named(call)}: still waits for its end, with {len(call.frames)} frames"


def polls_agree(evidence: Evidence) -> Iterator[str]:
    """If a poll showed a job as over, that is how the job must have ended."""
    for call in evidence.ledger.calls:
        state = evidence.aftermath.jobs.get(evidence.job_of(call))
        for answer in [*call.polls, *([call.cancel] if call.cancel else [])]:
            said = status_in(answer)
            if said in OVER and state is not None and any(said != each for each in state.statuses):
                yield f"{named(call)}: a poll said {said}, and later polls {', '.join(state.statuses)}"


# ── jobs ──


def accepted_jobs_are_known(evidence: Evidence) -> Iterator[str]:
    for call in evidence.ledger.calls:
        if call.accepted and not call.job_id and evidence.job_of(call) == "":
            yield f"{named(call)}: was accepted without an id and is in no list"
        if call.job_id and call.accepted and call.job_id not in evidence.aftermath.listed:
            yield f"{named(call)}: GET /v1/jobs does not list it"


def every_job_is_over(evidence: Evidence) -> Iterator[str]:
    for job_id, state, call in evidence.jobs():
        if len(set(state.statuses)) > 1:
            yield f"{job_id} ({about(call)}): the APIs disagree: {', '.join(state.statuses)}"
        elif not set(state.statuses) <= OVER:
            yield f"{job_id} ({about(call)}): never ended, it is {state.statuses[0]}"


def jobs_complete_unless_given_up(evidence: Evidence) -> Iterator[str]:
    for job_id, state, call in evidence.jobs():
        expected = {"completed"}
        if call is None:
            yield f"{job_id}: nobody asked for it"
        elif call.use in GIVEN_UP or call.open or serves_nobody(call):
            expected.add("cancelled")
        for status in OVER & set(state.statuses) - expected:
            yield f"{job_id} ({about(call)}): ended {status}, with {error_of(state)}"


def serves_nobody(call: Call) -> bool:
    """Whether the client never received a job's id, and so cannot resume it."""
    return call.use is not Use.BACKGROUND and not call.accepted


def a_call_is_one_job(evidence: Evidence) -> Iterator[str]:
    tags = Counter(tag for tag in evidence.aftermath.listed.values() if tag)
    for tag, count in tags.items():
        if count > 1:
            yield f"call {tag} became {count} jobs"


def lost_jobs(evidence: Evidence) -> set[str]:
    """Accepted jobs that never ended, even if the campaign had ended their clients' calls."""
    waiting = {evidence.job_of(call) for call in evidence.ledger.calls if call.open}
    return waiting | {job_id for job_id, call in unended(evidence) if call is not None and call.accepted}


def left_behind(evidence: Evidence) -> set[str]:
    """Listed jobs that never ended and whose acceptance no client received."""
    return {job_id for job_id, call in unended(evidence) if call is None or not call.accepted}


def unended(evidence: Evidence) -> Iterator[tuple[str, Call | None]]:
    return ((job_id, call) for job_id, state, call in evidence.jobs() if not set(state.statuses) <= OVER)


# ── bytes ──


def clients_saw_the_whole_stream(evidence: Evidence) -> Iterator[str]:
    """Streams must be complete, byte for byte, each frame once, with one end; also if they were resumed from another
    API.
    """
    for call in evidence.ledger.calls:
        if call.use is Use.STREAM and call.first.status == 200:
            if call.resumed and (wrong := numbers_wrong(call)):
                yield f"{named(call)}: {wrong}"
            if wrong := not_whole(call.prompt, call.frames):
                yield f"{named(call)}: {wrong}"


def what_clients_saw_is_in_the_log(evidence: Evidence) -> Iterator[str]:
    for call in evidence.ledger.calls:
        state = evidence.aftermath.jobs.get(evidence.job_of(call))
        if call.use not in STREAMED or call.first.status != 200 or state is None or not state.events:
            continue
        seen, kept = texts(call.frames), texts(events_of(state))
        if seen != kept[: len(seen)] or (call.use is not Use.LEFT_STREAM and len(seen) != len(kept)):
            both = f"its client saw {len(seen)} frames, its events tell {len(kept)}"
            yield f"{named(call)}: {both} {difference(seen, kept)}"


def logs_are_whole(evidence: Evidence) -> Iterator[str]:
    for job_id, state, call in evidence.jobs():
        if call is None or not state.events:
            continue
        frames = events_of(state)
        if [frame.number for frame in frames] != list(range(len(frames))):
            yield f"{job_id} ({about(call)}): its events are not numbered from 0 on"
        wrong = wrong_log(call, state.statuses[0], frames)
        if wrong:
            yield f"{job_id} ({about(call)}): its log: {wrong}"


def results_are_what_was_asked_for(evidence: Evidence) -> Iterator[str]:
    for job_id, state, call in evidence.jobs():
        if len(set(state.results)) > 1:
            yield f"{job_id} ({about(call)}): its result is another one each time"
        if call is None or state.statuses[:1] != ["completed"]:
            continue
        status, body = state.results[0]
        content = content_in(body) if status == 200 else f"HTTP {status}"
        expected = "".join(words_in(events_of(state))) if call.prompt.signed else call.prompt.text
        if content != expected:
            yield f"{job_id} ({about(call)}): its result says {content[:100]!r}…, not {expected[:100]!r}…"


def unary_answers_are_the_result(evidence: Evidence) -> Iterator[str]:
    for call in evidence.ledger.calls:
        if call.use is Use.UNARY and call.first.status == 200 and call.first.end is End.WHOLE:
            state = evidence.aftermath.jobs.get(call.job_id)
            if state is not None and (200, call.first.data.lstrip(b"\n")) not in state.results:
                yield f"{named(call)}: its answer is not its result"


def no_lost_attempt_writes_again(evidence: Evidence) -> Iterator[str]:
    """Each attempt marks its tokens. In a log, the tokens of one attempt must be contiguous."""
    for job_id, state, call in evidence.jobs():
        if call is not None and call.prompt.signed:
            runs = [mark for mark, _ in groupby(marks_in(events_of(state)))]
            if back := [mark for mark, count in Counter(runs).items() if count > 1]:
                yield f"{job_id} ({about(call)}): attempt {back[0]} wrote again after another: {' '.join(runs)}"


# ── what is left ──


def nothing_is_left_behind(evidence: Evidence) -> Iterator[str]:
    yield from evidence.aftermath.messages
    for key in evidence.aftermath.lasting_keys:
        yield f"the store would keep {key} for ever"
    for job_id, state, call in evidence.jobs():
        if state.leftovers and set(state.statuses) <= OVER:
            yield f"{job_id} ({about(call)}): is over, and its record still has {', '.join(state.leftovers)}"
    for count in evidence.aftermath.counts:
        if count.found > count.allowed:
            yield f"{count.found} {count.what}, and idle at the start it would be {count.allowed} at most"


def processes_behave(evidence: Evidence) -> Iterator[str]:
    yield from evidence.ledger.mishaps


INVARIANTS = (
    refusals_are_honest,
    only_killed_apis_cut_their_calls,
    every_call_ends,
    polls_agree,
    accepted_jobs_are_known,
    every_job_is_over,
    jobs_complete_unless_given_up,
    a_call_is_one_job,
    clients_saw_the_whole_stream,
    what_clients_saw_is_in_the_log,
    logs_are_whole,
    results_are_what_was_asked_for,
    unary_answers_are_the_result,
    no_lost_attempt_writes_again,
    nothing_is_left_behind,
    processes_behave,
)
