"""Omits or renames request fields that a server refuses, as the operator has set or as refusals have shown. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from shared.errors import IgniteError

ADDED_BY_WORKER = frozenset({"stream_options"})
"""Fields that the worker adds and that can be omitted."""

OLDER_NAMES = {"max_completion_tokens": "max_tokens"}
"""Fields that some servers know only under their older name."""

NEWER_NAMES = {"max_tokens": "max_completion_tokens"}
"""Fields that OpenAI's newer models accept only under their newer name. Their refusals contain that name."""


@dataclass(frozen=True, slots=True)
class ServerDialect:
    """`omitted`: fields that are not sent. `renamed`: fields that are sent under their other name. `ignores_n`: the
    server generates one choice only.
    """

    omitted: frozenset[str] = frozenset()
    renamed: frozenset[str] = frozenset()
    ignores_n: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: OLDER_NAMES | NEWER_NAMES)

    def applied(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the request in the server's dialect."""
        if not self.omitted and not self.renamed:
            return dict(request)
        kept = {key: value for key, value in request.items() if key not in self.omitted}
        return {self.names[key] if key in self.renamed else key: value for key, value in kept.items()}

    def without(self, refused: IgniteError, body: Mapping[str, Any], added: frozenset[str]) -> ServerDialect | None:
        """Returns the dialect for another try if the refusal names a field that can be omitted or renamed, else None.

        `added`: the fields of `body` that the client did not send.
        """
        for name in sorted((added | ADDED_BY_WORKER) & body.keys() - self.omitted):
            if _names(refused, name):
                return replace(self, omitted=self.omitted | {name})
        for name, other in self.names.items():
            if name not in body or other in body or other in self.renamed or not _names(refused, name):
                continue
            if name in OLDER_NAMES or _names(refused, other):
                return replace(self, renamed=self.renamed | {name})
        return None


def is_greedy(request: Mapping[str, Any]) -> bool:
    """Whether the same prompt has the same answer, whatever the seed is."""
    return request.get("temperature") == 0 or request.get("top_k") == 1


def without_nulls(request: Mapping[str, Any]) -> dict[str, Any]:
    """Drops null fields of the request and of its messages: SDKs send them, OpenAI treats them as absent, and strict
    servers refuse them. A message's null `content` stays, because some servers require the field.
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
    """Yields one request for each choice, each with its own seed: with one seed all choices would be equal."""
    alone = {key: value for key, value in request.items() if key != "n"}
    seed = request.get("seed")
    for index in indices:
        yield alone if seed is None else {**alone, "seed": seed + index}


def _names(refused: IgniteError, field_name: str) -> bool:
    if refused.param is not None and re.split(r"[.\[]", refused.param)[0] == field_name:
        return True
    return re.search(rf"(?<!\w){field_name}(?!\w)", refused.message) is not None
