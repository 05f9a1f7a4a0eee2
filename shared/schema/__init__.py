"""The client's request: checks every field of OpenAI's chat completions API and of the other endpoints, and the fields
that Ignite adds.

A request is checked once, before admission. After that it is passed on as the client's own bytes. Unknown fields are
kept for the engine.
"""

from shared.schema.base import QUOTED
from shared.schema.bounds import HEAVY_BYTES, MAX_CONTAINERS, MAX_VALUES, UNCOUNTED, is_heavy
from shared.schema.calls import (
    CALL_REQUESTS,
    CallApi,
    CallRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    JobRequest,
    RerankRequest,
    ScoreRequest,
    TokenizeRequest,
)
from shared.schema.parsing import (
    MAX_NESTING,
    check_call,
    check_request,
    field_path,
    nesting,
    parse_json,
    parse_metadata,
    parse_object,
)
from shared.schema.request import MAX_DEADLINE, NOT_FOR_ENGINES, ChatCompletionRequest, MetadataUpdate

__all__ = [
    "CALL_REQUESTS",
    "HEAVY_BYTES",
    "MAX_CONTAINERS",
    "MAX_DEADLINE",
    "MAX_NESTING",
    "MAX_VALUES",
    "NOT_FOR_ENGINES",
    "QUOTED",
    "UNCOUNTED",
    "CallApi",
    "CallRequest",
    "ChatCompletionRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "EmbeddingsRequest",
    "JobRequest",
    "MetadataUpdate",
    "RerankRequest",
    "ScoreRequest",
    "TokenizeRequest",
    "check_call",
    "check_request",
    "field_path",
    "is_heavy",
    "nesting",
    "parse_json",
    "parse_metadata",
    "parse_object",
]
