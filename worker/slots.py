"""Decides which tier gets the next free slot. Pure: it counts jobs by tier and knows no single job.

Higher tiers come first. Flex jobs never take the reserved slots, so that many of them leave room for others to start at
once; but a worker serves flex with at least one slot. Flex never starves: when it has been passed over for `patience`
seconds it gets the next free slot whatever else waits (*out of order*), and again after as long.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from shared.job import Tier

TIERS = (Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX)


class Slots:
    """`reserved`: the share of the slots that flex jobs never take. `patience`: in seconds, by `clock`.

    `limit`: how many requests the engine takes at present, which may be fewer than the slots. Jobs of lower tiers that
    wait in the other slots do not keep a job of a higher tier in the queue.
    """

    def __init__(
        self, count: int, *, reserved: float, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = self.limit = count
        self._for_flex = max(1, count - int(count * reserved))
        self._patience = patience
        self._clock = clock
        self._running: Counter[Tier] = Counter()
        self._passed_over: float | None = None

    def most_of(self, tier: Tier) -> int:
        """How many jobs of the tier may run here at once."""
        return self._for_flex if tier is Tier.FLEX else self._count

    @property
    def busy(self) -> bool:
        return self._running.total() > 0

    def choose(self, waiting: Collection[Tier]) -> Tier | None:
        """Returns the tier of `waiting` whose job starts next, or None if none can start now."""
        admitted = [tier for tier in TIERS if tier in waiting and self.admits(tier)]
        if Tier.FLEX in admitted and self._out_of_patience():
            return Tier.FLEX
        return admitted[0] if admitted else None

    def admits(self, tier: Tier) -> bool:
        if tier is Tier.FLEX:
            return self._free(tier) > 0 and self._running[Tier.FLEX] < self._for_flex
        return self._free(tier) > 0

    def _free(self, tier: Tier) -> int:
        """Returns how many jobs of the tier can start: free slots, within the limit less those of higher tiers."""
        ahead = sum(self._running[each] for each in TIERS[: TIERS.index(tier) + 1])
        return max(0, min(self._count - self._running.total(), self.limit - ahead))

    def take(self, tier: Tier, waiting: Collection[Tier] = ()) -> bool:
        """Counts a job of `tier` that starts while jobs of `waiting` wait. Returns whether it starts out of order."""
        self._running[tier] += 1
        if tier is not Tier.FLEX:
            if Tier.FLEX in waiting and self._passed_over is None:
                self._passed_over = self._clock()
            return False
        self._passed_over = None
        return any(higher in waiting for higher in TIERS if higher is not Tier.FLEX)

    def free(self, tier: Tier) -> None:
        self._running[tier] -= 1

    def lacking(self, waiting: Mapping[Tier, int], leaving: int) -> int:
        """Returns how many more flex jobs to preempt for the higher tiers that wait; `leaving` are being preempted."""
        if self._running.total() < self._count:
            return 0  # A slot is free: the limit is the engine.
        ahead = wanted = 0
        for tier in TIERS[:-1]:
            ahead += self._running[tier]
            wanted += max(0, min(waiting.get(tier, 0), self.limit - ahead - wanted))
        return max(0, min(wanted, self._running[Tier.FLEX]) - leaving)

    def _out_of_patience(self) -> bool:
        return self._passed_over is not None and self._clock() - self._passed_over >= self._patience
