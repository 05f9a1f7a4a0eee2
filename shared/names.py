"""The alphabets of names that clients and operators choose. They go into queues' and keys' names, URLs, metrics' labels
and command lines, so one rule holds wherever one is taken in.
"""

from __future__ import annotations

import re

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
TENANT_RULE = "up to 64 letters, digits and any of . _ @ - are allowed, the first a letter or a digit"

MODEL = re.compile(r"/?[A-Za-z0-9_][A-Za-z0-9_.:@+-]*(/[A-Za-z0-9_][A-Za-z0-9_.:@+-]*)*")
LONGEST_MODEL = 200
"""Characters: with what Ignite adds, a queue's name stays within the 255 bytes of AMQP."""

MODEL_RULE = (
    f"up to {LONGEST_MODEL} letters, digits and any of . _ : @ + - are allowed, in parts with / between them, each "
    "part beginning with a letter, a digit or _"
)
SHOWN = 60
"""Characters of a bad name that an error repeats."""


def is_tenant_name(name: str) -> bool:
    return TENANT.fullmatch(name) is not None


def is_model_name(name: str) -> bool:
    """Names as Hugging Face, OpenAI and Ollama have them, and absolute paths: `Qwen/Qwen3-0.6B`, `org/name:tag@rev`."""
    return len(name) <= LONGEST_MODEL and MODEL.fullmatch(name) is not None


def bad_tenant(name: str) -> str:
    """One clause."""
    return f"{shown(name)} is no name of a tenant: {TENANT_RULE}"


def bad_model(name: str) -> str:
    """One clause."""
    return f"{shown(name)} is no name of a model: {MODEL_RULE}"


def shown(name: str) -> str:
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}…")
