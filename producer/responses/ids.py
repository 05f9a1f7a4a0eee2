"""The ids of responses and items, derived from the job's id, so that every replica gives the same. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.job import ID_PREFIX

RESPONSE = "resp_"
SUFFIX = "[0-9a-f]{32}"
PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
"""The beginning of an item's id, by its type."""

INPUT = "i"
"""Stands before the index of an input item."""

ITEM_ID = re.compile(rf"(?:{'|'.join(PREFIXES.values())})_({SUFFIX})({INPUT}?)([0-9]{{1,5}})")
RESPONSE_ID = re.compile(f"{RESPONSE}({SUFFIX})")


def response_id(job_id: str) -> str:
    return RESPONSE + job_id.removeprefix(ID_PREFIX)


def job_id_of(response: str) -> str | None:
    """Returns the id of the response's job, None where the text is no response's id."""
    found = RESPONSE_ID.fullmatch(response)
    return found and ID_PREFIX + found[1]


def output_item_id(job_id: str, kind: str, index: int) -> str:
    return f"{PREFIXES[kind]}_{job_id.removeprefix(ID_PREFIX)}{index}"


def input_item_id(job_id: str, kind: str, index: int) -> str:
    return f"{PREFIXES[kind]}_{job_id.removeprefix(ID_PREFIX)}{INPUT}{index}"


@dataclass(frozen=True, slots=True)
class ItemPlace:
    """Where an item with an id of ours is: in the input or the output of a job's response."""

    job_id: str
    in_input: bool
    index: int


def item_place(item_id: str) -> ItemPlace | None:
    found = ITEM_ID.fullmatch(item_id)
    return found and ItemPlace(ID_PREFIX + found[1], bool(found[2]), int(found[3]))
