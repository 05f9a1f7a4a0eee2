"""Measures how long clients waited for the takeover of a lost worker's stream. Pure functions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from tests.chaos.ledger import Call, Ledger, Struck
from tests.chaos.plan import Kind
from tests.chaos.reading import SIGNED, timed_words

ASKED_ABOUT = (Kind.WORKER_KILLED, Kind.WORKER_STOPPED, Kind.WORKER_CUT_OFF)
SLACK = 0.5
"""Seconds for which tokens may still arrive after their worker was hit."""


def takeovers(ledger: Ledger) -> Mapping[Kind, list[tuple[float, str]]]:
    """Yields the seconds between the last token of one attempt and the first of the next, with the fault between them
    and the job.
    """
    found: dict[Kind, list[tuple[float, str]]] = {kind: [] for kind in ASKED_ABOUT}
    for call in ledger.calls:
        for begins, ends in pauses(call):
            if (struck := cause(ledger.struck, call.job_id, begins, ends)) is not None:
                found[struck.kind].append((ends - begins, call.job_id))
    return found


def pauses(call: Call) -> Iterator[tuple[float, float]]:
    """Only gaps within one connection count: a resumed stream starts when its client asks."""
    for answer in call.answers:
        signed = [(match[2], at) for word, at in timed_words(answer.frames) if (match := SIGNED.fullmatch(word))]
        yield from ((left[1], right[1]) for left, right in pairwise(signed) if left[0] != right[0])


def cause(struck: Sequence[Struck], job_id: str, begins: float, ends: float) -> Struck | None:
    for each in struck:
        if each.kind in ASKED_ABOUT and job_id in each.held and begins - SLACK <= each.at <= ends:
            return each
    return None


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
