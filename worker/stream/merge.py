"""Joins pieces of streamed fields that OpenAI's types do not name, as an unary answer has them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

IDENTITIES = frozenset({"id", "type", "index", "object", "name", "role", "format", "expires_at", "signature"})
"""Texts that may be repeated but never come in pieces."""


def merged(whole: Any, piece: Any, name: str = "") -> Any:
    """Joins `piece` to `whole` as SDKs do: texts and lists grow, objects merge, other values are replaced."""
    if whole is None or piece is None:
        return whole if piece is None else piece
    if isinstance(whole, str) and isinstance(piece, str):
        return piece if name in IDENTITIES else whole + piece
    if isinstance(whole, dict) and isinstance(piece, dict):
        return _objects(cast(dict[str, Any], whole), cast(dict[str, Any], piece))
    if isinstance(whole, list) and isinstance(piece, list):
        return _lists(cast(list[Any], whole), cast(list[Any], piece))
    return piece


def _objects(whole: Mapping[str, Any], piece: Mapping[str, Any]) -> dict[str, Any]:
    joined = {name: merged(whole.get(name), value, name) for name, value in piece.items()}
    return {**whole, **joined}


def _lists(whole: list[Any], piece: list[Any]) -> list[Any]:
    """Merges items that have an `index` with the item of that index; appends all others."""
    joined = list(whole)
    positions = {index: at for at, item in enumerate(joined) if (index := _index(item)) is not None}
    for item in piece:
        index = _index(item)
        if index is not None and index in positions:
            joined[positions[index]] = merged(joined[positions[index]], item)
        else:
            joined.append(item)
            if index is not None:
                positions[index] = len(joined) - 1
    return joined


def _index(item: Any) -> int | None:
    index = cast(dict[str, Any], item).get("index") if isinstance(item, dict) else None
    return index if isinstance(index, int) else None
