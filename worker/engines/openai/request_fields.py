"""What a server does not take of a request: set by the operator, or learnt from its refusals. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from shared.errors import IgniteError

OURS = frozenset({"stream_options"})
"""Fields that a worker adds for itself whatever the client sent: a server may do without."""

OLDER_NAMES = {"max_completion_tokens": "max_tokens"}
"""Fields that some servers know under their older name only."""

NEWER_NAMES = {"max_tokens": "max_completion_tokens"}
"""Fields that OpenAI's newer models know under their newer name only; they say so."""


@dataclass(frozen=True, slots=True)
class ServerDialect:
    """`omitted` fields are not sent, `renamed` ones under their older name. `ignores_n`: it answers with one choice."""

    omitted: frozenset[str] = frozenset()
    renamed: frozenset[str] = frozenset()
    ignores_n: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: OLDER_NAMES | NEWER_NAMES)

    def applied(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request as the server takes it."""
        if not self.omitted and not self.renamed:
            return dict(request)
        kept = {key: value for key, value in request.items() if key not in self.omitted}
        return {self.names[key] if key in self.renamed else key: value for key, value in kept.items()}

    def without(self, refused: IgniteError, body: Mapping[str, Any], added: frozenset[str]) -> ServerDialect | None:
        """The dialect in which to ask again, where the refusal names a field of `body` that the client did not need.

        `added`: the fields that the client did not send. None: the refusal is the client's.
        """
        for name in sorted((added | OURS) & body.keys() - self.omitted):
            if _names(refused, name):
                return replace(self, omitted=self.omitted | {name})
        for name, other in self.names.items():
            if name not in body or other in body or other in self.renamed or not _names(refused, name):
                continue
            if name in OLDER_NAMES or _names(refused, other):
                return replace(self, renamed=self.renamed | {name})
        return None


def without_nulls(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request without what is null, at its top and in its messages: strict servers refuse what OpenAI takes for
    absent, and SDKs send messages back with every field they know. A message's null content stays: some want it.
    """
    kept = {key: value for key, value in request.items() if value is not None}
    messages = kept.get("messages")
    if isinstance(messages, list):
        kept["messages"] = [_message(message) for message in cast(list[Any], messages)]
    return kept


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    fields = cast(dict[str, Any], message)
    return {key: value for key, value in fields.items() if value is not None or key == "content"}


def per_choice(request: Mapping[str, Any], indices: list[int]) -> Iterator[dict[str, Any]]:
    """One request for each of these choices, each with a seed of its own, or all would be the same."""
    alone = {key: value for key, value in request.items() if key != "n"}
    seed = request.get("seed")
    for index in indices:
        yield alone if seed is None else {**alone, "seed": seed + index}


def _names(refused: IgniteError, field_name: str) -> bool:
    if refused.param is not None and re.split(r"[.\[]", refused.param)[0] == field_name:
        return True
    return re.search(rf"(?<!\w){field_name}(?!\w)", refused.message) is not None
