"""Which of the models that a server lists are served, and under which ids."""

from typing import Any

import pytest

from worker.engines.openai.served_models import ServedModels, Wanted, served_models

VLLM: list[dict[str, Any]] = [
    {"id": "base", "object": "model", "owned_by": "vllm", "root": "/models/base", "parent": None, "max_model_len": 512},
    {"id": "sql", "object": "model", "owned_by": "vllm", "root": "/adapters/sql", "parent": "base"},
    {"id": "poems", "object": "model", "owned_by": "vllm", "root": "/adapters/poems", "parent": "base"},
]
OLLAMA: list[dict[str, Any]] = [
    {"id": "llama3:8b", "object": "model", "created": 1, "owned_by": "library"},
    {"id": "hf.co/org/qwen:Q4_K_M", "object": "model", "created": 1, "owned_by": "library"},
]
LLAMA_SERVER: list[dict[str, Any]] = [
    {"id": "/models/a.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_ctx_train": 8192}}
]


ALL = Wanted()


def served(listed: list[dict[str, Any]], wanted: Wanted = ALL, main: str | None = None) -> ServedModels:
    found = served_models(listed, wanted, "openai", main)
    assert found is not None
    return found


def ids(listed: list[dict[str, Any]], wanted: Wanted = ALL, main: str | None = None) -> list[str]:
    return [card.id for card in served(listed, wanted, main).cards]


def test_all_that_is_listed_is_served() -> None:
    assert ids(VLLM) == ["base", "sql", "poems"]
    assert ids(OLLAMA) == ["llama3:8b", "hf.co/org/qwen:Q4_K_M"]
    assert ids(LLAMA_SERVER) == ["/models/a.gguf"]
    assert served(LLAMA_SERVER).owned_by == "llamacpp"
    assert served(VLLM).owned_by == "vllm"


def test_an_adapter_has_a_parent_and_its_context() -> None:
    base, sql, _ = served(VLLM, Wanted(model_id="house")).cards
    assert (base.id, base.parent, base.context_length) == ("house", None, 512)
    assert (sql.id, sql.parent, sql.context_length) == ("sql", "house", 512)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (("base",), ["base", "sql", "poems"]),
        (("sql",), ["sql"]),
        (("poems", "sql"), ["poems", "sql"]),
        (("poems", "unlisted"), ["poems"]),
        (("unlisted",), ["unlisted"]),
        (("neither", "nor"), ["neither", "nor"]),
    ],
    ids=str,
)
def test_those_that_are_named(wanted: tuple[str, ...], found: list[str]) -> None:
    assert ids(VLLM, Wanted(wanted)) == found


def test_the_main_model_stays_the_main_model() -> None:
    wanted = Wanted(model_id="house")
    assert ids(VLLM[1:] + VLLM[:1], wanted, "base") == ["house", "sql", "poems"]
    assert ids(VLLM[1:], wanted, "base") == ["sql", "poems"], "no other model takes its id"


def test_the_listed_name_can_be_an_alias() -> None:
    wanted = Wanted(model_id="/models/base", also_listed_name=True)
    found = served(VLLM, wanted)
    assert (found.cards[0].aliases, found.names["/models/base"]) == (("base",), "base")
    assert served(VLLM, Wanted(model_id="base", also_listed_name=True)).cards[0].aliases == ()


def test_what_cannot_be_served_is_left_out() -> None:
    listed = [{"id": f"m{number}"} for number in range(5)]
    found = served([*listed, {"id": "two words"}, {"id": ""}, {"id": 7}, {}], Wanted(limit=3))
    assert [card.id for card in found.cards] == ["m0", "m1", "m2"]
    assert found.left_out == ("m3", "m4", "two words")
    assert ids([{"id": "a"}, {"id": "b"}], Wanted(model_id="b")) == ["b"], "two models have no common id"


def test_nothing_is_nothing() -> None:
    assert served_models([], Wanted(), "openai") is None
    assert served_models([{"id": None}], Wanted(), "openai") is None
