"""Decodes the records of models and workers that workers announce. The reader and the writer may be of different
versions: unknown fields are ignored, and missing fields get their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from shared.ports import ModelInfo, WorkerInfo

OF_A_MODEL = frozenset(field.name for field in fields(ModelInfo))
LISTS = frozenset({"capabilities", "modalities", "aliases"})
OF_A_WORKER = frozenset(field.name for field in fields(WorkerInfo))


def decode_model(announced: Mapping[str, Any]) -> ModelInfo:
    known: dict[str, Any] = {name: value for name, value in announced.items() if name in OF_A_MODEL}
    for name in LISTS & known.keys():
        known[name] = tuple(known[name])
    return ModelInfo(**known)


def decode_worker(announced: Mapping[str, Any]) -> WorkerInfo:
    known: dict[str, Any] = {name: value for name, value in announced.items() if name in OF_A_WORKER}
    known["model"] = decode_model(known["model"])
    return WorkerInfo(**known)
