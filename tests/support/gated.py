"""`python -m tests.support.gated …` runs `ignite …` with a simulated engine that waits on demand: if a prompt says
`gate=PATH`, the answer stops after its first tokens until that file exists; if it says `silent=PATH`, it stops before
them. So a test decides how long a job runs, on machines of any speed.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ignite.__main__ import main
from tests.support.wait_until import wait_until
from worker.engines.simulated import SimulatedEngine

MODULE = "tests.support.gated"
BEFORE = 15
"""Number of chunks before an answer stops."""

WITHIN = 600.0
GATE = re.compile(r"\b(gate|silent)=(\S+)")

Request = dict[str, Any]
generate, complete = SimulatedEngine.generate, SimulatedEngine.complete


async def opened(request: Request, said: int) -> None:
    found = GATE.search(str(request["messages"][-1]["content"]))
    if found and said == (0 if found[1] == "silent" else BEFORE):
        await wait_until(Path(found[2]).exists, f"the gate {found[2]}", WITHIN)


async def gated_generate(
    self: SimulatedEngine, request: Request, prefix: str = "", progress: bytes = b""
) -> AsyncGenerator[Any]:
    count = 0
    async with aclosing(generate(self, request, prefix, progress)) as chunks:
        async for chunk in chunks:
            await opened(request, count)
            count += 1
            yield chunk


async def gated_complete(self: SimulatedEngine, request: Request) -> Any:
    for said in (0, BEFORE):
        await opened(request, said)
    return await complete(self, request)


if __name__ == "__main__":
    SimulatedEngine.generate, SimulatedEngine.complete = gated_generate, gated_complete
    main()
