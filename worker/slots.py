"""Which tier the next free slot goes to. Pure: it counts and decides, and knows no job.

Higher tiers first. Flex jobs never take the reserved slots, so that a flood of them leaves room to begin at once; but
a worker serves flex with one slot at least. And flex always moves: once it has been passed over for `patience` seconds
the next free slot is its own, whatever else waits (a turn *out of order*), and again after as long.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from shared.job import Tier

TIERS = (Tier.PRIORITY, Tier.DEFAULT, Tier.FLEX)


class Slots:
    """`reserved`: the share of them that flex jobs never take. `patience` in seconds, by `clock`.

    `limit`: how many requests the engine takes at present, where those are fewer than the slots. The jobs of the lower
    tiers that hold the rest wait for it, and are no reason to leave a job of a higher tier in the queue.
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
        """The tier of the next job to start, of those that wait; None: none of them now."""
        admitted = [tier for tier in TIERS if tier in waiting and self.admits(tier)]
        if Tier.FLEX in admitted and self._out_of_patience():
            return Tier.FLEX
        return admitted[0] if admitted else None

    def admits(self, tier: Tier) -> bool:
        if tier is Tier.FLEX:
            return self._free(tier) > 0 and self._running[Tier.FLEX] < self._for_flex
        return self._free(tier) > 0

    def _free(self, tier: Tier) -> int:
        """Slots for jobs of the tier, as far as those of the same or a higher one leave the engine room for them."""
        ahead = sum(self._running[each] for each in TIERS[: TIERS.index(tier) + 1])
        return max(0, min(self._count - self._running.total(), self.limit - ahead))

    def take(self, tier: Tier, waiting: Collection[Tier] = ()) -> bool:
        """A job of `tier` starts while jobs of `waiting` wait; whether its turn is out of order."""
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
        """How many more flex jobs must go for every job of a higher tier that waits, where `leaving` are going."""
        if self._running.total() < self._count:
            return 0  # There is a slot: it is the engine that takes no more.
        ahead = wanted = 0
        for tier in TIERS[:-1]:
            ahead += self._running[tier]
            wanted += max(0, min(waiting.get(tier, 0), self.limit - ahead - wanted))
        return max(0, min(wanted, self._running[Tier.FLEX]) - leaving)

    def _out_of_patience(self) -> bool:
        return self._passed_over is not None and self._clock() - self._passed_over >= self._patience
