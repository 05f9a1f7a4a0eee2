"""Who may submit what, decided without waiting. Pure: facts in, a refusal or nothing out."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import DeadlineExceeded, IgniteError, InvalidRequest, ShuttingDown
from shared.ports import ModelInfo
from shared.schema import ChatCompletionRequest

DRAIN_RETRY = 5.0
"""Seconds until a client should try again while this replica drains: another one answers by then."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What admission looks at. `time_left`: seconds until the deadline."""

    draining: bool
    time_left: float


def refusal(facts: Facts) -> IgniteError | None:
    if facts.draining:
        return ShuttingDown("This server is shutting down.", retry_after=DRAIN_RETRY)
    if facts.time_left <= 0:
        return DeadlineExceeded(
            "The deadline had passed before the request was queued.", code="deadline_exceeded_in_queue"
        )
    return None


TAKEN_AS = {"text": "text", "refusal": "text", "image_url": "image", "input_audio": "audio", "file": "file"}
"""The modality that a content part needs."""


def unreadable(request: ChatCompletionRequest, model: ModelInfo) -> IgniteError | None:
    """What of a request the model cannot take or give, where its engine tells what it can."""
    if not model.modalities:
        return None
    if "audio" in (request.modalities or ()) and "audio" not in model.modalities:
        return InvalidRequest(f"The model '{model.id}' answers with text only.", param="modalities")
    for index, message in enumerate(request.messages):
        for at, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if TAKEN_AS[part.type] not in model.modalities:
                taken = ", ".join(model.modalities)
                return InvalidRequest(
                    f"The model '{model.id}' takes {taken}; it cannot take '{part.type}'.",
                    param=f"messages[{index}].content[{at}]",
                )
    return None
