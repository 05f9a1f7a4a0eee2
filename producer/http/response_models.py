"""Models of answers for /openapi.json only. Handlers send bytes that the serializers build."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from shared.job import JobStatus, Tier

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    error: ErrorBody


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[dict[str, Any]] = []


class CompletionChoice(BaseModel):
    index: int
    message: CompletionMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    service_tier: Tier
    choices: list[CompletionChoice]
    usage: Usage


class StoredCompletion(ChatCompletion):
    metadata: dict[str, str]


class StoredCompletionList(BaseModel):
    object: Literal["list"]
    data: list[StoredCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoredMessage(BaseModel):
    """A message of the request, with the client's other fields."""

    id: str
    role: str
    content: str | None
    content_parts: list[dict[str, Any]] | None = Field(description="The text and image parts of content in parts.")
    name: str | None
    refusal: str | None


class StoredMessageList(BaseModel):
    object: Literal["list"]
    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    id: str
    object: Literal["chat.completion.deleted", "chat.completion.job.deleted"]
    deleted: Literal[True]


class ChunkChoice(BaseModel):
    index: int
    delta: dict[str, Any]
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    service_tier: Tier
    choices: list[ChunkChoice]
    usage: Usage | None = None


class JobQueuePosition(BaseModel):
    position: int | None = Field(description="From 1.")
    eta_seconds: int | None
    workers: int | None = Field(description="Ready workers that serve the job's model.")


class JobProgress(BaseModel):
    chunks: int
    completion_tokens: int


class JobUrls(BaseModel):
    self: str
    result: str
    events: str
    cancel: str
    response: str | None = Field(None, description="For jobs of the Responses API.")


class Job(BaseModel):
    """Times are Unix seconds. A job that ended early keeps its partial result."""

    id: str
    object: Literal["chat.completion.job"]
    endpoint: str = Field(description="Whose request it has, such as `chat.completions` or `embeddings`.")
    status: JobStatus
    model: str
    service_tier: Tier
    created_at: int
    started_at: int | None
    first_token_at: int | None
    finished_at: int | None
    deadline_at: int
    expires_at: int | None
    queue: JobQueuePosition | None
    progress: JobProgress
    attempts: int
    result: dict[str, Any] | None
    usage: Usage | None
    error: ErrorBody | None
    metadata: dict[str, str]
    urls: JobUrls


class JobList(BaseModel):
    object: Literal["list"]
    data: list[Job]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeadJob(Job):
    tenant: str


class DeadJobList(BaseModel):
    object: Literal["list"]
    data: list[DeadJob]
    first_id: str | None
    last_id: str | None
    has_more: bool


class UndecodableMessage(BaseModel):
    """A message that no worker could decode. Times are Unix seconds."""

    id: str
    object: Literal["undecodable_message"]
    queue: str
    set_aside_at: int
    reason: str
    headers: dict[str, str]
    bytes: int


class UndecodableList(BaseModel):
    object: Literal["list"]
    data: list[UndecodableMessage]


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    engine: str
    context_length: int | None
    description: str | None
    capabilities: list[str]
    modalities: list[str] = Field(description="Supported inputs; empty if the engine does not report them.")
    aliases: list[str]
    parent: str | None = Field(description="The model that it adapts, where it is an adapter (LoRA).")
    workers: int


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class File(BaseModel):
    """Times are Unix seconds. `status` is `uploaded` while a batch still writes the file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["uploaded", "processed"]
    status_details: None


class FileList(BaseModel):
    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"]
    deleted: bool


class HealthReport(BaseModel):
    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field({}, description="Each part with `ok` or its fault.")


class Queue(BaseModel):
    """A queue: one per model and tier. Estimates are null until there is a measurement."""

    object: Literal["queue"]
    model: str
    tier: str
    waiting: int
    running: int
    waiting_tokens: int = Field(description="Estimated tokens of prompts and answers.")
    waiting_tenants: int
    oldest_wait_seconds: float
    started_per_second: float | None
    backlog_seconds: float | None = Field(
        description="Until the last waiting job starts, at this rate; null while jobs wait and no worker is ready, or "
        "before a measurement."
    )


class QueueList(BaseModel):
    object: Literal["list"]
    data: list[Queue]


class EngineState(BaseModel):
    """What the engine's server tells of itself; null where it does not. Counts of tokens and preemptions are since its
    start.
    """

    running: int | None = Field(description="Requests that the engine works on.")
    waiting: int | None = Field(description="Requests that wait inside the engine.")
    kv_cache_usage: float | None = Field(description="From 0 to 1.")
    prefix_cache_queries: int | None = Field(description="Prompt tokens that were looked for in the prefix cache.")
    prefix_cache_hits: int | None = Field(description="Prompt tokens that were found there.")
    preemptions: int | None
    restarts: int | None = Field(description="Of the engine's process, by the worker.")
    start_seconds: float | None = Field(description="Until its process could generate.")


class Worker(BaseModel):
    object: Literal["worker"]
    id: str
    model: str
    models: list[str] = Field(description="All that its engine serves, with the same slots.")
    engine: str
    slots: int
    running: int = Field(description="Jobs, as the worker last reported.")
    ready: bool = Field(description="Its engine can generate.")
    version: str
    started_at: int
    engine_state: EngineState | None


class WorkerList(BaseModel):
    object: Literal["list"]
    data: list[Worker]
