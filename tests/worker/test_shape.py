"""Requests that engines get."""

from typing import Any

import pytest

from worker.openai.translate import bounded


@pytest.mark.parametrize(
    ("asked", "context", "told"),
    [
        ({"max_tokens": 9_000}, 4096, {"max_tokens": 4096}),
        ({"max_completion_tokens": 2**63 - 1}, 4096, {"max_completion_tokens": 4096}),
        ({"max_tokens": 4096}, 4096, {"max_tokens": 4096}),
        ({"max_tokens": 9_000}, None, {"max_tokens": 9_000}),
        ({"max_tokens": None}, 4096, {"max_tokens": None}),
        ({}, 4096, {}),
    ],
)
def test_an_answer_has_no_more_tokens_than_the_context(
    asked: dict[str, Any], context: int | None, told: dict[str, Any]
) -> None:
    assert bounded(asked, context) == told
