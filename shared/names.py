"""The rules for names of tenants and models. These names become part of queue names, Redis keys, URLs, metric labels
and command lines, so the same rule applies everywhere.
"""

from __future__ import annotations

import re

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
TENANT_RULE = "up to 64 letters, digits and any of . _ @ - are allowed, the first a letter or a digit"

MODEL = re.compile(r"/?[A-Za-z0-9_][A-Za-z0-9_.:@+-]*(/[A-Za-z0-9_][A-Za-z0-9_.:@+-]*)*")
LONGEST_MODEL = 200
"""Characters. A queue's name, which contains the model's, must stay within AMQP's limit of 255 bytes."""

MODEL_RULE = (
    f"up to {LONGEST_MODEL} letters, digits and any of . _ : @ + - are allowed, in parts with / between them, each "
    "part beginning with a letter, a digit or _"
)
SHOWN = 60
"""Most characters of a bad name that an error quotes."""


def is_tenant_name(name: str) -> bool:
    return TENANT.fullmatch(name) is not None


def is_model_name(name: str) -> bool:
    """Accepts the names of Hugging Face, OpenAI and Ollama (`Qwen/Qwen3-0.6B`, `org/name:tag@rev`) and absolute
    paths.
    """
    return len(name) <= LONGEST_MODEL and MODEL.fullmatch(name) is not None


def bad_tenant(name: str) -> str:
    """Returns what is wrong, as one clause."""
    return f"{shown(name)} is not a valid tenant name: {TENANT_RULE}"


def bad_model(name: str) -> str:
    """Returns what is wrong, as one clause."""
    return f"{shown(name)} is not a valid model name: {MODEL_RULE}"


def shown(name: str) -> str:
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}…")
