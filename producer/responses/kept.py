"""What is kept of a request to the Responses API beside its chat request: a member of the job's request. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from producer.responses.conversation import Resource
from producer.responses.ids import input_item_id
from shared.schema.request import RESPONSE_FIELD


@dataclass(frozen=True, slots=True)
class Kept:
    """`echo`: the fields of the response that repeat the request. `items`: the input. `logprobs`: whether the client
    asked for them. `instructed`: whether the first chat message is the instructions, which a next response does not
    inherit.
    """

    echo: dict[str, Any]
    items: list[Resource]
    logprobs: bool = False
    instructed: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "echo": self.echo,
            "items": self.items,
            "logprobs": self.logprobs,
            "instructed": self.instructed,
        }

    @property
    def background(self) -> bool:
        return bool(self.echo["background"])

    def input_items(self, job_id: str) -> list[Resource]:
        """Returns the input with ids."""
        return [{"id": input_item_id(job_id, item["type"], index), **item} for index, item in enumerate(self.items)]


def kept_of(body: bytes) -> tuple[Kept, list[dict[str, Any]]]:
    """Returns what a job's request keeps of the response, and its chat messages without the instructions."""
    request = orjson.loads(body)
    kept = Kept(**request[RESPONSE_FIELD])
    return kept, request["messages"][1 if kept.instructed else 0 :]
