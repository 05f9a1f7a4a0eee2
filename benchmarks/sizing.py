"""How many processes and servers so many streams or calls need, from what one token and one call cost.

    .venv/bin/python -m benchmarks.sizing [--pace 20] [--answer 500] [--busy 0.6]

Prints the tables of docs/explanation/sizing.md, where the arithmetic is explained.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

# CPU in ms per 1000 tokens of paced streams (docs/explanation/performance.md).
API_TOKENS, WORKER_TOKENS, REDIS_TOKENS = 36, 38, 20
# RabbitMQ's part of that, 11 ms, belongs to the calls: 1000 tokens were 15.6 of them.
RABBITMQ_STREAM = 0.70
# CPU in ms per unary call of 16 tokens (docs/explanation/performance.md).
API_CALL, WORKER_CALL, REDIS_CALL, RABBITMQ_CALL = 0.43, 0.30, 0.17, 0.14
# Memory in KB: of an open stream in the API and in its worker; in Redis of a streamed call that is over, and of each of
# its tokens; of an API process with nothing to do.
API_STREAM_KB, WORKER_STREAM_KB, CALL_KB, TOKEN_KB, API_IDLE_KB = 26, 18, 2.6, 0.4, 96_000

STREAMS = (1_000, 100_000, 10_000_000)
CALLS = (100, 1_000, 10_000, 100_000)
PACES = (5, 10, 20, 50)
HOUR, MINUTE = 3600, 60


@dataclass(frozen=True, slots=True)
class Assumed:
    """`pace`: frames per second of one stream; `answer`: frames of one answer; `busy`: share of its core that a process
    may use; `slots`: of one worker.
    """

    pace: float = 20
    answer: int = 500
    busy: float = 0.6
    slots: int = 256


@dataclass(frozen=True, slots=True)
class Needs:
    """The needs of a number of open streams. Memory in KB."""

    streams: int
    assumed: Assumed

    @property
    def frames(self) -> float:
        return self.streams * self.assumed.pace

    @property
    def answers(self) -> float:
        return self.frames / self.assumed.answer

    @property
    def api(self) -> int:
        return self.processes(API_TOKENS)

    @property
    def redis(self) -> int:
        return self.processes(REDIS_TOKENS)

    @property
    def workers(self) -> int:
        """Workers: each has one slot per stream, and uses no more than its share of a core."""
        return max(math.ceil(self.streams / self.assumed.slots), self.processes(WORKER_TOKENS))

    @property
    def rabbitmq(self) -> float:
        """The broker's cores, without the work of its replicas."""
        return self.answers * RABBITMQ_STREAM / 1000 / self.assumed.busy

    def processes(self, ms_per_thousand: float) -> int:
        return math.ceil(round(self.frames * ms_per_thousand / 1_000_000 / self.assumed.busy, 6))

    def api_memory(self) -> float:
        return self.api * API_IDLE_KB + self.streams * API_STREAM_KB

    def redis_memory(self, retention: float) -> float:
        """Redis's memory on all servers: finished calls, and half of each running answer."""
        whole = CALL_KB + TOKEN_KB * self.assumed.answer
        return self.answers * retention * whole + self.streams * (CALL_KB + TOKEN_KB * self.assumed.answer / 2)


def streams_table(assumed: Assumed) -> str:
    needs = [Needs(streams, assumed) for streams in STREAMS]
    return table(
        ("open streams", *(number(each.streams) for each in needs)),
        ("frames/s", *(number(each.frames) for each in needs)),
        ("answers/s", *(number(each.answers) for each in needs)),
        ("API processes", *(number(each.api) for each in needs)),
        (f"workers of {assumed.slots} slots", *(number(each.workers) for each in needs)),
        ("Redis servers", *(number(each.redis) for each in needs)),
        ("RabbitMQ, cores (leaders)", *(number(each.rabbitmq) for each in needs)),
        ("memory: API, all of them", *(size(each.api_memory()) for each in needs)),
        ("Redis, all of them, `retention` 1 h", *(size(each.redis_memory(HOUR)) for each in needs)),
        ("Redis, all of them, `retention` 60 s", *(size(each.redis_memory(MINUTE)) for each in needs)),
    )


def cell(assumed: Assumed) -> Needs:
    """Returns the needs of the most streams that one Redis can serve, rounded down to hundreds."""
    most = round(assumed.busy / (assumed.pace * REDIS_TOKENS / 1_000_000), 6)
    return Needs(math.floor(most / 100) * 100, assumed)


def cells_table(assumed: Assumed) -> str:
    needs = [cell(replace(assumed, pace=pace)) for pace in PACES]
    return table(
        ("frames/s of a stream", *(number(each.assumed.pace) for each in needs)),
        ("open streams", *(number(each.streams) for each in needs)),
        ("API processes", *(number(each.api) for each in needs)),
        (f"workers of {assumed.slots} slots", *(number(each.workers) for each in needs)),
        ("answers/s", *(number(each.answers) for each in needs)),
        ("RabbitMQ, cores (leaders)", *(number(each.rabbitmq) for each in needs)),
        ("memory: a Redis, `retention` 60 s", *(size(each.redis_memory(MINUTE)) for each in needs)),
    )


def calls_table(assumed: Assumed) -> str:
    def cores(ms_per_call: float) -> list[float]:
        return [calls * ms_per_call / 1000 / assumed.busy for calls in CALLS]

    def processes(name: str, ms_per_call: float) -> tuple[str, ...]:
        return (name, *(number(math.ceil(round(each, 6))) for each in cores(ms_per_call)))

    return table(
        ("calls/s", *map(number, CALLS)),
        processes("API processes", API_CALL),
        processes("worker processes, by their CPU", WORKER_CALL),
        processes("Redis servers", REDIS_CALL),
        ("RabbitMQ, cores (leaders)", *map(number, cores(RABBITMQ_CALL))),
    )


def table(head: Iterable[str], *rows: Iterable[str]) -> str:
    first, *names = head
    ruler = ["---", *("--:" for _ in names)]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([first, *names], ruler, *rows))


def number(value: float) -> str:
    """Formats a number: two digits below ten, whole numbers above."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def size(kilobytes: float) -> str:
    for unit, factor in (("TB", 1e9), ("GB", 1e6)):
        if kilobytes >= factor / 10:
            return f"{number(kilobytes / factor)} {unit}"
    return f"{number(kilobytes / 1e3)} MB"


def tables(assumed: Assumed) -> tuple[str, str, str]:
    return streams_table(assumed), cells_table(assumed), calls_table(assumed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=(__doc__ or "").split("\n")[0])
    usual = Assumed()
    parser.add_argument("--pace", type=float, default=usual.pace, help="frames a second of a stream (%(default)s)")
    parser.add_argument("--answer", type=int, default=usual.answer, help="frames of an answer (%(default)s)")
    parser.add_argument("--busy", type=float, default=usual.busy, help="part of its core a process uses (%(default)s)")
    parser.add_argument("--slots", type=int, default=usual.slots, help="slots of a worker (%(default)s)")
    print("\n\n".join(tables(Assumed(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
