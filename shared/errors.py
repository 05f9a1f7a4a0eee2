"""One tree of errors. Each class has a sentence, OpenAI's `type` and `code`, and says whether a retry can help.

Foreign exceptions are translated into these once, at the border (a backend, an engine); `producer/http/errors.py` is
the only map from here to HTTP. An error travels inside jobs and streams as OpenAI's error object: `to_dict` and
`from_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class IgniteError(Exception):
    """The root: an error a client may see.

    `param` names the offending field (`messages[0].content`), `retry_after` is in seconds. `detail` is what only
    operators may read, such as addresses and the words of foreign errors: `str()` has it, `message` and `to_dict` do
    not. `retryable` tells the worker whether another attempt could end differently.
    """

    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.code = code or self.default_code
        self.param = param
        self.retry_after = retry_after

    def __str__(self) -> str:
        """For logs and the command line."""
        return self.message if self.detail is None else f"{self.message.rstrip('.')}: {self.detail.rstrip('.')}."

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's error object, without its envelope."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


class InvalidRequest(IgniteError):
    """The request is wrong and will stay wrong."""

    type = "invalid_request_error"
    default_code = "invalid_value"


class AuthenticationFailed(InvalidRequest):
    """The request has no API key, or an unknown one."""

    default_code = "invalid_api_key"


class PermissionDenied(IgniteError):
    """The key is valid and does not permit this."""

    type = "permission_error"
    default_code = "permission_denied"


class NotFound(InvalidRequest):
    """The tenant has no such object."""

    default_code = "not_found"


class Gone(InvalidRequest):
    """It existed; its data has expired."""

    default_code = "result_expired"


class Conflict(InvalidRequest):
    """The thing exists, in another state than the call needs."""

    default_code = "conflict"


class RequestTooLarge(InvalidRequest):
    """The body is over the limit."""

    default_code = "request_too_large"


class RangeNotSatisfiable(InvalidRequest):
    """The range begins beyond the end of the file."""

    default_code = "range_not_satisfiable"


class UnsupportedMediaType(InvalidRequest):
    """The body is not announced as JSON."""

    default_code = "unsupported_media_type"


class IdempotencyKeyReused(InvalidRequest):
    """The idempotency key was used with another request."""

    default_code = "idempotency_key_reused"


def key_reused() -> IdempotencyKeyReused:
    return IdempotencyKeyReused("This idempotency key was used with another request.", param="Idempotency-Key")


def unknown_model(name: str) -> NotFound:
    """Returns the error for an unknown model, and for one that the key may not use: tenants must not learn of it."""
    return NotFound(f"The model '{name}' does not exist.", param="model", code="model_not_found")


class RateLimited(IgniteError):
    """A limit is reached: the client should retry after `retry_after` seconds."""

    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class NeverAllowed(RateLimited):
    """The request exceeds the key's limit by itself: a retry does not help."""


class QueueFull(RateLimited):
    """The queue's bound is reached; nothing was accepted."""

    default_code = "queue_full"


class StorageQuotaExceeded(RateLimited):
    """The tenant keeps as many bytes as it may; nothing was accepted."""

    default_code = "storage_quota_exceeded"


class Unavailable(IgniteError):
    """A required service does not answer; nothing was accepted."""

    type = "server_error"
    default_code = "unavailable"


class BackendUnavailable(Unavailable):
    """The broker or the store does not answer."""

    default_code = "backend_unavailable"


class BrokerUnavailable(BackendUnavailable):
    """The broker does not answer, or takes nothing."""

    default_code = "broker_unavailable"


class StoreUnavailable(BackendUnavailable):
    """The store of jobs does not answer, or takes nothing."""

    default_code = "store_unavailable"


class StoreFull(StoreUnavailable):
    """The disk of the store of jobs has no room."""

    default_code = "storage_full"


class StorageUnavailable(Unavailable):
    """The disk or object storage for files fails."""

    default_code = "storage_unavailable"


class StorageFull(StorageUnavailable):
    """The disk that keeps files has no room."""

    default_code = "storage_full"


class DataDirectoryInUse(StoreUnavailable):
    """Another process works on the same data directory."""

    default_code = "data_directory_in_use"


class NoWorkerForModel(Unavailable):
    """The model is known, but has had no worker for `worker_patience` seconds."""

    default_code = "no_worker_for_model"


class ShuttingDown(Unavailable):
    """This process is draining."""

    default_code = "shutting_down"


class DeadlineExceeded(IgniteError):
    """The job's deadline passed."""

    type = "timeout_error"
    default_code = "deadline_exceeded"


class EngineError(IgniteError):
    """The attempt failed in the engine; another attempt may succeed."""

    type = "server_error"
    default_code = "engine_error"
    retryable = True


class EngineOverloaded(EngineError):
    """The engine is overloaded: the job waits `retry_after` seconds, and no try is counted."""

    default_code = "engine_overloaded"


class EngineRefused(InvalidRequest):
    """The engine says the request itself is wrong (context too long, unknown option): permanent."""


class WorkerLost(EngineError):
    """The worker died, and its stream cannot be continued without repeating or losing text."""

    default_code = "worker_lost"
    retryable = False


class LogLost(Unavailable):
    """The store has lost frames that the client has already received."""

    default_code = "log_lost"


class AnswerTooLarge(InvalidRequest):
    """The answer exceeds `job_log_limit`; another attempt would exceed it too."""

    default_code = "answer_too_large"


class RequestLost(IgniteError):
    """No copy of the job's request is left."""

    default_code = "request_lost"


class AttemptsExhausted(IgniteError):
    """Every allowed attempt failed, or too many workers in a row were lost while running the job."""

    default_code = "attempts_exhausted"


class JobCancelled(IgniteError):
    """The job was cancelled before it completed."""

    type = "invalid_request_error"
    default_code = "cancelled"


class RecordedError(IgniteError):
    """An error read back from a job's record: whatever type and code it was stored with."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        super().__init__(
            str(record.get("message", "")), code=record.get("code") or "internal_error", param=record.get("param")
        )
        self.recorded_type = str(record.get("type") or "server_error")

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "type": self.recorded_type}


def sentence(error: BaseException) -> str:
    """Returns a foreign error's message without its full stop, to be put into a sentence; its class name if empty."""
    return str(error).rstrip(". ") or type(error).__name__


OTHER_CODE = "other"


def codes_of(kind: type[IgniteError]) -> Iterator[str]:
    yield kind.default_code
    for child in kind.__subclasses__():
        yield from codes_of(child)


OF_SOME_ERRORS = {"context_length_exceeded", "deadline_exceeded_in_queue", "model_not_found", "unsupported_endpoint"}
CODES = frozenset(codes_of(IgniteError)) | OF_SOME_ERRORS


def code_label(code: object) -> str:
    """Returns the code as a label of metrics if it is one of Ignite's own, else `other`, because an engine may
    invent any.
    """
    return code if isinstance(code, str) and code in CODES else OTHER_CODE
