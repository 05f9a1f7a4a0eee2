"""Requests, limits and usage of continued answers."""

from typing import Any

import pytest

from tests.worker.engines.requests import ask
from worker.engines.continuation import continue_after, is_spent, whole_usage


def test_the_partial_answer_is_the_assistants_last_message() -> None:
    request = ask(max_tokens=10)
    continued = continue_after(request, "Once upon", 2)
    assert continued["messages"] == [*request["messages"], {"role": "assistant", "content": "Once upon"}]
    assert continued["max_tokens"] == 8
    assert len(request["messages"]) == 1


def test_an_answer_begun_by_the_client_stays_one_message() -> None:
    request = ask()
    request["messages"].append({"role": "assistant", "content": "Well, "})
    assert continue_after(request, "once", 1)["messages"][-1] == {"role": "assistant", "content": "Well, once"}


@pytest.mark.parametrize(
    ("limits", "tokens", "spent"),
    [
        ({"max_tokens": 5}, 4, False),
        ({"max_tokens": 5}, 5, True),
        ({"max_tokens": 5, "max_completion_tokens": 9}, 5, False),
        ({"max_tokens": None}, 5, False),
        ({"max_tokens": -1}, 0, False),
    ],
)
def test_the_limit_counts_the_whole_answer(limits: dict[str, Any], tokens: int, spent: bool) -> None:
    assert is_spent(ask(**limits), tokens) is spent


def test_usage_counts_the_prefix_as_answer() -> None:
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 12},
    }
    assert whole_usage(usage, 2) == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert whole_usage(usage, 0) == usage
