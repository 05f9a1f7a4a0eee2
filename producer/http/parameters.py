"""Path and query parameters that several routes share."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query, Request

from shared.errors import InvalidRequest
from shared.schema.request import METADATA_PAIRS

Id = Annotated[str, Path(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]

MAX_WAIT = 300.0
"""Seconds. The longest `wait` of a poll, and of `Prefer: wait`."""


def metadata_filter(request: Request) -> dict[str, str]:
    """Returns the pairs of `metadata[key]=value` in the query. Raises InvalidRequest."""
    wanted: dict[str, str] = {}
    for name, value in request.query_params.items():
        if name.startswith("metadata"):
            key = name.removeprefix("metadata").removeprefix("[").removesuffix("]")
            if name != f"metadata[{key}]" or not key:
                raise InvalidRequest(
                    "Invalid value for 'metadata': expected metadata[key]=value in the query.", param="metadata"
                )
            wanted[key] = value
    if len(wanted) > METADATA_PAIRS:
        raise InvalidRequest(
            f"Invalid value for 'metadata': no job has more than {METADATA_PAIRS} pairs.", param="metadata"
        )
    return wanted
