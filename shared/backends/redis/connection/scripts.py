"""The sources of the Lua steps, assembled from the files in lua/."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from shared.backends.redis.connection.gathering import Argument, Command

LUA = Path(__file__).parents[1] / "lua"

PRELUDE = "prelude"
"""Prefix of the files that are not steps, but code shared by all steps or by one family of steps."""


def steps() -> Sequence[str]:
    """Returns the names of all steps."""
    return [path.stem for path in LUA.glob("*.lua") if not path.stem.startswith(PRELUDE)]


KEPT, CLOSE = "prelude_kept", "prelude_close"
BESIDE: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("index", "discard", "retry", "reserve", "move_kept_bytes"), (KEPT,)),
    **dict.fromkeys(("finish", "end_unclaimed"), (KEPT, CLOSE)),
}
"""Further preludes that single steps need."""


class Script:
    """The source of one atomic step: the prelude of all steps, the prelude of its family (`fair_queue_…`, `limit_…`),
    further preludes that it needs (BESIDE), and the step's own file.

    Redis runs all of it at each call, so a step includes only what it needs.
    """

    def __init__(self, name: str) -> None:
        family = name.rpartition("_")[0]
        names = dict.fromkeys((PRELUDE, f"{PRELUDE}_{family}", *BESIDE.get(name, ()), name))
        parts = (LUA / f"{part}.lua" for part in names)
        self.source = "".join(part.read_text() for part in parts if part.exists())
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    return Script(name)


class LuaStep(NamedTuple):
    """One call of the script `name`; lua_steps.py has a function for each."""

    name: str
    keys: Sequence[str]
    arguments: tuple[Argument, ...]

    @property
    def command(self) -> Command:
        return ("EVALSHA", script(self.name).sha, len(self.keys), *self.keys, *self.arguments)
