"""When batches will end, and whether a completion window can be kept. Pure.

Theory. The fair queue (shared/fairness.py) shares a model's rate between tenants by weight, and starts a tenant's own
jobs by the end of their window. Where jobs are small beside a batch this is a fluid: *weighted processor sharing*
between the tenants (Kleinrock 1967), earliest deadline first within each (Liu and Layland 1973).

Let R be the model's rate in tokens per second and W the sum of the weights of the tenants that have work left. A tenant
of weight w is served at R·w/W. In *virtual time* v, which grows by R/W per second, every tenant with work is served at
w per unit (Parekh and Gallager 1993). So a piece of work ends at the virtual time of its tenant's tokens up to and
including it, divided by w; this does not depend on the other tenants. One pass over all ends in virtual order turns
virtual time into seconds, where W falls whenever a tenant has no more work: n·log n for n pieces of work.

*A new window.* In its own tenant's order the new work takes a place before, between or after the others. A later window
is a later place. Its end there follows from the pass above, and the shortest window for that place is that end, or the
window's end of the work before it, whichever is later. It can be kept if it is not after the next work's window, and if
no work of the tenant that would have kept its window misses it. The first place where both hold has the shortest
window. Other tenants' windows do not count: a tenant may always use its share.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

AFTER = 0.001
"""Seconds by which a window ends after another one, to be ordered behind it."""


@dataclass(frozen=True, slots=True)
class Work:
    """Open work of one tenant with one deadline, such as a batch. `window_end`: seconds from now; `tokens`: left."""

    id: str
    tenant: str
    tokens: float
    window_end: float
    weight: float = 1.0


def finishes(works: Sequence[Work], rate: float) -> dict[str, float]:
    """Returns the seconds until each piece of work is done, by id. `rate`: tokens per second; infinite for 0."""
    if rate <= 0:
        return {work.id: math.inf for work in works}
    ends, weights = list[tuple[float, str, str]](), dict[str, float]()
    last = dict[str, str]()
    served: defaultdict[str, float] = defaultdict(float)
    for work in sorted(works, key=lambda each: (each.window_end, each.id)):
        weights.setdefault(work.tenant, work.weight)
        served[work.tenant] += max(0.0, work.tokens)
        ends.append((served[work.tenant] / weights[work.tenant], work.tenant, work.id))
        last[work.tenant] = work.id
    found, virtual, seconds = dict[str, float](), 0.0, 0.0
    for end, tenant, work_id in sorted(ends):
        seconds += (end - virtual) * math.fsum(weights.values()) / rate
        virtual, found[work_id] = end, seconds
        if last[tenant] == work_id:
            del weights[tenant]
    return found


def broken_by(new: Work, works: Sequence[Work], rate: float) -> list[str]:
    """Returns the ids of its tenant's other works that would miss their window because of the new one."""
    before, after = finishes(works, rate), finishes([*works, new], rate)
    own = (work for work in works if work.tenant == new.tenant)
    return [work.id for work in own if before[work.id] <= work.window_end < after[work.id]]


def shortest_window(new: Work, works: Sequence[Work], rate: float) -> float:
    """Returns the shortest window, in whole seconds from now, that the new work keeps without breaking another of its
    tenant's.
    """
    ends = sorted({work.window_end for work in works if work.tenant == new.tenant})
    for after, before in zip((-math.inf, *ends), (*ends, math.inf), strict=True):
        placed = replace(new, window_end=after + AFTER if math.isfinite(after) else -math.inf)
        needed = max(finishes([*works, placed], rate)[new.id], placed.window_end)
        shortest = math.ceil(needed) if math.isfinite(needed) else needed
        if shortest <= before and not broken_by(placed, works, rate):
            return shortest
    return math.inf


def can_be_kept(new: Work, works: Sequence[Work], rate: float) -> bool:
    """Whether the new work ends in its window, and breaks no window of its tenant that would be kept without it."""
    return finishes([*works, new], rate)[new.id] <= new.window_end and not broken_by(new, works, rate)
