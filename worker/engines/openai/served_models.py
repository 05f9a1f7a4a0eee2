"""Which of the models that a server lists are served, and under which ids. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.names import is_model_name
from worker.engines.base import ModelCard
from worker.engines.llamacpp.dialect import input_modalities

Listed = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """`models`: the server's names of the models to serve, each with its adapters; empty: every model that the server
    lists. `model_id`: Ignite's id of the main model, by default the server's name; with `also_listed_name` that name is
    an alias of it. `limit`: the most models.
    """

    models: tuple[str, ...] = ()
    model_id: str | None = None
    also_listed_name: bool = False
    limit: int = 32


@dataclass(frozen=True, slots=True)
class ServedModels:
    """`cards`: the main model first. `names`: the server's name for each id. `left_out`: listed models with a name that
    Ignite cannot use, or beyond the limit. `owned_by`: what the server says of the main model: `vllm`,
    `llamacpp`, …
    """

    cards: tuple[ModelCard, ...]
    names: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    owned_by: str | None = None


def served_models(listed: Sequence[Listed], wanted: Wanted, kind: str, main: str | None = None) -> ServedModels | None:
    """Returns the models to serve; None where there are none. `main`: the server's name of the main model so far, which
    it stays: while it is not listed, no other model takes its id.
    """
    by_name = {model["id"]: model for model in listed if isinstance(model.get("id"), str) and model["id"]}
    names = _wanted(by_name, wanted)
    if main in names:
        names.remove(main)
        names.insert(0, main)
    if not names:
        return None
    has_main = not main or main in names
    ids = {names[0]: (has_main and wanted.model_id) or names[0]}
    for name in names[1:]:
        if len(ids) < wanted.limit and is_model_name(name) and name != wanted.model_id:
            ids[name] = name
    if len(wanted.models) == 1 and names[0] not in by_name and listed:
        by_name[names[0]] = listed[0]  # A server may know a model by a name that it does not list.
    main_card = _card(names[0], by_name, ids, kind)
    if has_main and wanted.also_listed_name and main_card.id != names[0] and is_model_name(names[0]):
        main_card = replace(main_card, aliases=(names[0],))
    return ServedModels(
        (main_card, *(_card(name, by_name, ids, kind) for name in [*ids][1:])),
        {model_id: name for name, model_id in ids.items()},
        left_out=tuple(name for name in names if name not in ids),
        owned_by=by_name.get(names[0], {}).get("owned_by"),
    )


def _wanted(by_name: Mapping[str, Listed], wanted: Wanted) -> list[str]:
    """Returns the server's names of the models to serve. One that is named alone is served whether it is listed or not,
    and several are where the list has none of them: a server need not list all that it serves.
    """
    if not wanted.models:
        return [*by_name]
    listed = [name for name in wanted.models if name in by_name]
    named = listed if listed and len(wanted.models) > 1 else [*wanted.models]
    adapters = [name for name, model in by_name.items() if model.get("parent") in named]
    return [*dict.fromkeys([*named, *adapters])]


def _card(name: str, by_name: Mapping[str, Listed], ids: Mapping[str, str], kind: str) -> ModelCard:
    model = by_name.get(name, {})
    parent = model.get("parent")
    base: Listed = by_name.get(parent, {}) if isinstance(parent, str) else {}
    return ModelCard(
        ids[name],
        kind,
        context_length=_context_length(model) or _context_length(base),
        capabilities=(),
        modalities=input_modalities(dict(model)),
        parent=ids.get(parent, parent) if isinstance(parent, str) else None,
    )


def _context_length(model: Listed) -> int | None:
    """Reads vLLM's `max_model_len`, or llama-server's `meta.n_ctx` (per slot) or `meta.n_ctx_train`."""
    meta: Mapping[str, Any] = model.get("meta") or {}
    return model.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")
