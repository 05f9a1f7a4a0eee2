"""How long clients waited while a lost worker's stream went over to another. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from tests.chaos.ledger import Call, Ledger, Struck
from tests.chaos.plan import Kind
from tests.chaos.reading import SIGNED, timed_words

ASKED_ABOUT = (Kind.WORKER_KILLED, Kind.WORKER_STOPPED, Kind.WORKER_CUT_OFF)
SLACK = 0.5
"""Seconds that tokens may be on their way to the client when their worker is struck."""


def takeovers(ledger: Ledger) -> Mapping[Kind, list[tuple[float, str]]]:
    """Seconds between the last token of one attempt and the first of the next, by the fault that lay between; and the
    job.
    """
    found: dict[Kind, list[tuple[float, str]]] = {kind: [] for kind in ASKED_ABOUT}
    for call in ledger.calls:
        for begins, ends in pauses(call):
            if (struck := cause(ledger.struck, call.job_id, begins, ends)) is not None:
                found[struck.kind].append((ends - begins, call.job_id))
    return found


def pauses(call: Call) -> Iterator[tuple[float, float]]:
    """Only as one client saw them on one connection: what was resumed elsewhere came when the client asked."""
    for answer in call.answers:
        signed = [(match[2], at) for word, at in timed_words(answer.frames) if (match := SIGNED.fullmatch(word))]
        yield from ((left[1], right[1]) for left, right in pairwise(signed) if left[0] != right[0])


def cause(struck: Sequence[Struck], job_id: str, begins: float, ends: float) -> Struck | None:
    for each in struck:
        if each.kind in ASKED_ABOUT and job_id in each.held and begins - SLACK <= each.at <= ends:
            return each
    return None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
