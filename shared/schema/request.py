"""The body of POST /v1/chat/completions. Source of names and ranges: OpenAI's published API, as the `openai` package
types it. Where the API treats null as absent, so does this model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from shared.errors import InvalidRequest
from shared.schema.base import (
    LIST,
    OBJECT,
    TEXT,
    Strict,
    at_most,
    missing,
    text_or_list,
    text_or_object,
)
from shared.schema.messages import ChatMessage, Content, TextPart, conversation_faults
from shared.schema.tools import (
    MAX_TOOLS,
    FunctionChoice,
    FunctionDefinition,
    ResponseFormat,
    Tool,
    ToolChoice,
    choice_faults,
)

INT64 = 2**63

MAX_DEADLINE = 30 * 86400.0
"""Longest deadline that a request may set, in seconds."""

MAX_MESSAGES = 2048
"""OpenAI's limit."""

MAX_BIASES = 10_000

DEPRECATED: dict[str, JsonValue] = {"deprecated": True}

Stop = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[str], Field(max_length=4, fail_fast=True), Tag(LIST)],
    Discriminator(
        text_or_list,
        custom_error_type="stop_type",
        custom_error_message="expected a string or a list of up to 4 strings",
    ),
]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,19}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Key = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class VoiceId(Strict):
    id: str


Voice = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[VoiceId, Tag(OBJECT)],
    Discriminator(
        text_or_object,
        custom_error_type="voice_type",
        custom_error_message="expected a voice's name, or an object with its id",
    ),
]


class AudioOutput(Strict):
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]
    voice: Voice


class Prediction(Strict):
    type: Literal["content"]
    content: Content[TextPart]


class ApproximatePlace(Strict):
    city: str | None = None
    country: str | None = None
    region: str | None = None
    timezone: str | None = None


class UserLocation(Strict):
    type: Literal["approximate"]
    approximate: ApproximatePlace


class WebSearchOptions(Strict):
    search_context_size: Literal["low", "medium", "high"] | None = None
    user_location: UserLocation | None = None


class ModerationMode(Strict):
    mode: Literal["score", "block"]


class ModerationPolicy(Strict):
    input: ModerationMode | None = None
    output: ModerationMode | None = None


class Moderation(Strict):
    model: str
    policy: ModerationPolicy | None = None


class PromptCacheOptions(Strict):
    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m"] | None = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


METADATA_PAIRS = 16
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
ServiceTier = Literal["auto", "default", "flex", "priority", "fast", "scale"]
DeadlineSeconds = Annotated[
    float,
    Field(
        gt=0,
        le=MAX_DEADLINE,
        description="The job's deadline, in seconds from now; it covers the wait in the queue.",
    ),
]
Metadata = Annotated[dict[Key, Value], Field(max_length=METADATA_PAIRS), at_most(METADATA_PAIRS)]
Biases = Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASES), at_most(MAX_BIASES)]
Modalities = Annotated[list[Literal["text", "audio"]], Field(max_length=2, fail_fast=True)]


class MetadataUpdate(Strict):
    """The body that replaces the metadata of a stored completion; null removes it."""

    model_config = ConfigDict(extra="forbid")

    metadata: Metadata | None


class ChatCompletionRequest(Strict):
    """The body of POST /v1/chat/completions."""

    model: ModelName
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    audio: AudioOutput | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    function_call: FunctionChoice | None = Field(None, json_schema_extra=DEPRECATED)
    functions: list[FunctionDefinition] | None = Field(
        None, min_length=1, max_length=MAX_TOOLS, fail_fast=True, json_schema_extra=DEPRECATED
    )
    logit_bias: Biases | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | None = Field(None, ge=1, lt=INT64)
    max_tokens: int | None = Field(None, ge=1, lt=INT64)
    metadata: Metadata | None = None
    modalities: Modalities | None = None
    moderation: Moderation | None = None
    n: int | None = Field(None, ge=1, le=128)
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    prompt_cache_key: str | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = Field(None, max_length=128)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    service_tier: ServiceTier | None = None
    stop: Stop | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    tool_choice: ToolChoice | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS, fail_fast=True)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    top_p: float | None = Field(None, ge=0, le=1)
    user: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: WebSearchOptions | None = None
    # Ignite's own fields
    background: bool | None = Field(None, description="Answer 202 with a job instead of waiting for the completion.")
    deadline_seconds: DeadlineSeconds | None = None
    webhook_url: str | None = Field(None, description="URL that receives a signed event when a background job ends.")

    @model_validator(mode="after")
    def fields_agree(self) -> ChatCompletionRequest:
        """Checks the rules between fields. An error names the field to change."""
        for param, message in self._faults():
            raise InvalidRequest(message, param=param)
        return self

    def _faults(self) -> Iterable[tuple[str, str]]:
        if self.top_logprobs is not None and not self.logprobs:
            yield "top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true."
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            yield "max_tokens", "'max_tokens' and 'max_completion_tokens' name one limit and differ: set one of them."
        if "audio" in (self.modalities or ()) and self.audio is None:
            yield "audio", missing("audio")
        yield from self._tool_faults()
        yield from self._moderation_faults()
        yield from conversation_faults(self.messages)

    def _tool_faults(self) -> Iterable[tuple[str, str]]:
        if self.tool_choice is not None:
            yield from choice_faults(self.tool_choice, self.tools)
        if self.functions and self.tools:
            yield (
                "functions",
                "'functions' and 'tools' cannot both be provided: 'functions' is the older form of 'tools'.",
            )
        names = {function.name for function in self.functions or ()}
        if self.function_call not in (None, "none", "auto") and self.function_call.name not in names:
            yield "function_call.name", "function_call names a function that is not among 'functions'."

    def _moderation_faults(self) -> Iterable[tuple[str, str]]:
        """Refuses moderation that blocks, because Ignite does not moderate. Requests for scores are accepted, since an
        answer is useful without them.
        """
        policy = self.moderation and self.moderation.policy
        for side in ("input", "output") if policy else ():
            mode: ModerationMode | None = getattr(policy, side)
            if mode is not None and mode.mode == "block":
                yield (
                    f"moderation.policy.{side}.mode",
                    "Ignite does not moderate, so it cannot block: omit this field or set it to 'score'.",
                )

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


OURS_TO_SET = frozenset(
    {
        # vLLM
        "cache_salt",
        "data_parallel_rank",
        "ec_transfer_params",
        "kv_transfer_params",
        "priority",
        "request_id",
        # SGLang
        "bootstrap_host",
        "bootstrap_pair_key",
        "bootstrap_port",
        "bootstrap_room",
        "decode_tp_size",
        "disagg_prefill_dp_rank",
        "extra_key",
        "rid",
        "routed_dp_rank",
        "session_params",
        # llama.cpp
        "id_slot",
        # any
        "conversation_id",
        "session_id",
    }
)
"""Engine fields by which a tenant could affect other tenants or the fleet. Clients may not set them."""

RESPONSE_FIELD = "ignite_response"
"""In the chat request of a response's job: what the response repeats of its own request."""

NOT_FOR_ENGINES = OURS_TO_SET | {
    RESPONSE_FIELD,
    "background",
    "deadline_seconds",
    "metadata",
    "model",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "webhook_url",
}
