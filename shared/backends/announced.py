"""Changes and decodes what workers announce of themselves and their models. The reader and the writer may be of
different versions: unknown fields are ignored, and missing fields get their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from shared.ports import EngineState, ModelInfo, WorkerInfo

OF_A_MODEL = frozenset(field.name for field in fields(ModelInfo))
LISTS = frozenset({"capabilities", "modalities", "aliases"})
OF_AN_ENGINE = frozenset(field.name for field in fields(EngineState))
OF_A_WORKER = frozenset(field.name for field in fields(WorkerInfo))


def decode_model(announced: Mapping[str, Any]) -> ModelInfo:
    known: dict[str, Any] = {name: value for name, value in announced.items() if name in OF_A_MODEL}
    for name in LISTS & known.keys():
        known[name] = tuple(known[name])
    return ModelInfo(**known)


def decode_engine(announced: Mapping[str, Any] | None) -> EngineState | None:
    if announced is None:
        return None
    return EngineState(**{name: value for name, value in announced.items() if name in OF_AN_ENGINE})


def decode_worker(announced: Mapping[str, Any]) -> WorkerInfo:
    known: dict[str, Any] = {name: value for name, value in announced.items() if name in OF_A_WORKER}
    known["model"] = decode_model(known["model"])
    known["further_models"] = tuple(map(decode_model, known.get("further_models") or ()))
    known["engine_state"] = decode_engine(known.get("engine_state"))
    return WorkerInfo(**known)


def changed(worker: WorkerInfo, ready: bool | None, models: Sequence[ModelInfo]) -> WorkerInfo:
    """The worker as it is announced from now on: see `Membership.announce`."""
    serving = worker.serving(models) if models else worker
    return serving if ready is None else replace(serving, ready=ready)
