"""Plans the faults of a campaign. A pure function of seed, length and mix, so that a run can be repeated."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    WORKER_KILLED = "worker killed (-9)"
    WORKER_STOPPED = "worker stopped past its lease, then continued"
    WORKER_CUT_OFF = "worker cut off without a word past its lease"
    WORKER_DRAINED = "worker drained (SIGTERM)"
    API_KILLED = "API killed (-9)"
    WIRE_CUT = "connections cut"
    WIRE_REFUSED = "connections refused for a while"
    WIRE_SILENT = "connections silent for a while"
    BROKER_RESTARTED = "broker restarted"
    STORE_KILLED = "store killed (-9) and started"


@dataclass(frozen=True)
class Fault:
    """`at`, `lasts`: seconds; `target`: index of the affected process or server of this kind."""

    at: float
    kind: Kind
    target: int
    lasts: float = 0.0

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind}, target {self.target}" + (f", {self.lasts:.1f} s" if self.lasts else "")


@dataclass(frozen=True)
class Mix:
    """The relative frequency of each kind, and the seconds between two faults."""

    weights: Mapping[Kind, float]
    gap: tuple[float, float] = (1.0, 3.5)


EVERYTHING = Mix(
    {
        Kind.WORKER_KILLED: 6,
        Kind.WORKER_STOPPED: 4,
        Kind.WORKER_CUT_OFF: 3,
        Kind.WORKER_DRAINED: 3,
        Kind.API_KILLED: 3,
        Kind.WIRE_CUT: 4,
        Kind.WIRE_REFUSED: 3,
        Kind.WIRE_SILENT: 2,
        Kind.BROKER_RESTARTED: 1,
        Kind.STORE_KILLED: 1,
    }
)
ONLY_STOPS = Mix({Kind.WORKER_STOPPED: 1})
ONLY_KILLS = Mix({Kind.WORKER_KILLED: 1})

# A process that was struck is back before its kind is struck again, and the rare ones stay rare.
REST: Mapping[Kind, float] = {
    Kind.WORKER_KILLED: 3,
    Kind.WORKER_STOPPED: 11,
    Kind.WORKER_CUT_OFF: 11,
    Kind.WIRE_SILENT: 8,
    Kind.API_KILLED: 8,
    Kind.BROKER_RESTARTED: 60,
    Kind.STORE_KILLED: 20,
}
# The broker takes a worker for gone after two missed heartbeats of two seconds, and looks every second.
LASTING: Mapping[Kind, tuple[float, float]] = {
    Kind.WORKER_STOPPED: (7.5, 10.0),
    Kind.WORKER_CUT_OFF: (7.5, 10.0),
    Kind.WIRE_REFUSED: (0.8, 2.0),
    Kind.WIRE_SILENT: (4.0, 7.0),
}

FIRST = 2.0
QUIET_END = 2.0


def make_plan(seed: int, seconds: float, mix: Mix = EVERYTHING) -> list[Fault]:
    chance = random.Random(f"plan {seed}")
    faults: list[Fault] = []
    again = dict.fromkeys(mix.weights, -math.inf)
    at = FIRST
    while at <= seconds - QUIET_END:
        kinds = [kind for kind, ready in again.items() if ready <= at]
        if kinds:
            kind = chance.choices(kinds, [mix.weights[each] for each in kinds])[0]
            faults.append(Fault(round(at, 2), kind, chance.randrange(100), lasting(chance, kind)))
            again[kind] = at + REST.get(kind, 0.0)
        at += chance.uniform(*mix.gap)
    return faults


def lasting(chance: random.Random, kind: Kind) -> float:
    return round(chance.uniform(*LASTING[kind]), 1) if kind in LASTING else 0.0
