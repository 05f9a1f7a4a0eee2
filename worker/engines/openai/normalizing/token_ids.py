"""The ids of an answer's tokens, as vLLM sends them: those of the prompt once, those of the answer in each chunk."""

from __future__ import annotations

from typing import Any, cast

PROMPT_IDS, TOKEN_IDS = "prompt_token_ids", "token_ids"


class TokenIds:
    """Takes ids out of raw chunks and choices. What no clean chunk has had yet goes with the next one."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[int]] = {}

    def take(self, holder: Any) -> None:
        """Takes the ids out of a chunk or a choice; nothing of what is neither."""
        if not isinstance(holder, dict):
            return
        fields = cast(dict[str, Any], holder)
        for name in (PROMPT_IDS, TOKEN_IDS):
            if ids := _ids(fields.pop(name, None)):
                self._waiting.setdefault(name, []).extend(ids)

    def taken(self) -> dict[str, list[int]]:
        taken, self._waiting = self._waiting, {}
        return taken


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list):
        return []
    ids = cast(list[Any], value)
    return cast(list[int], ids) if all(type(each) is int and 0 <= each < 2**32 for each in ids) else []
