"""Every error has a status, and says the same after it travelled in a job's record."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.http.errors import RETRY_AFTER_RANGE, error_response, headers_of, status_of
from shared import errors
from shared.errors import IgniteError, RecordedError

STATUSES = {
    "InvalidRequest": 400,
    "EngineRefused": 400,
    "AuthenticationFailed": 401,
    "PermissionDenied": 403,
    "NotFound": 404,
    "Conflict": 409,
    "JobCancelled": 409,
    "Gone": 410,
    "RequestTooLarge": 413,
    "UnsupportedMediaType": 415,
    "RangeNotSatisfiable": 416,
    "IdempotencyKeyReused": 422,
    "AnswerTooLarge": 400,
    "RateLimited": 429,
    "NeverAllowed": 429,
    "QueueFull": 429,
    "StorageQuotaExceeded": 429,
    "IgniteError": 500,
    "EngineError": 500,
    "EngineOverloaded": 500,
    "WorkerLost": 500,
    "AttemptsExhausted": 500,
    "RequestLost": 500,
    "Unavailable": 503,
    "BackendUnavailable": 503,
    "BrokerUnavailable": 503,
    "StoreUnavailable": 503,
    "StorageUnavailable": 503,
    "DataDirectoryInUse": 503,
    "LogLost": 503,
    "NoWorkerForModel": 503,
    "ShuttingDown": 503,
    "DeadlineExceeded": 504,
    "StorageFull": 507,
    "StoreFull": 507,
}
IN_JOBS = ("EngineRefused", "JobCancelled", "WorkerLost", "AttemptsExhausted", "DeadlineExceeded", "EngineError")


def all_errors(root: type[IgniteError] = IgniteError) -> Iterator[type[IgniteError]]:
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


def test_none_is_without_a_status() -> None:
    named = {error.__name__ for error in all_errors() if error.__module__ == errors.__name__}
    assert named - {"RecordedError"} == STATUSES.keys()


@pytest.mark.parametrize(("name", "status"), STATUSES.items())
def test_each_has_its_own(name: str, status: int) -> None:
    assert status_of(getattr(errors, name)("It happened.")) == status


@pytest.mark.parametrize("name", IN_JOBS)
def test_a_record_keeps_what_was_said_and_its_status(name: str) -> None:
    error = getattr(errors, name)("It happened.", param="messages")
    recorded = RecordedError(error.to_dict())
    assert recorded.to_dict() == error.to_dict()
    assert status_of(recorded) == status_of(error)


@pytest.mark.parametrize("record", [{}, {"message": "x"}, {"type": None, "code": None}])
def test_an_incomplete_record_is_ours_to_blame(record: dict[str, None]) -> None:
    recorded = RecordedError(record)
    assert (status_of(recorded), recorded.to_dict()["code"]) == (500, "internal_error")


@given(st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_retry_after_is_what_sdks_honour(seconds: float | None) -> None:
    headers = headers_of(errors.QueueFull("full", retry_after=seconds), 429)
    assert RETRY_AFTER_RANGE[0] <= int(headers["retry-after"]) <= RETRY_AFTER_RANGE[1]


def test_headers_that_go_with_a_status() -> None:
    assert error_response(errors.AuthenticationFailed("x")).headers["www-authenticate"] == "Bearer"
    assert error_response(errors.Conflict("x")).headers["x-should-retry"] == "false"
    assert error_response(errors.AttemptsExhausted("x")).headers["x-should-retry"] == "false"
    assert "x-should-retry" not in error_response(errors.EngineError("x")).headers
    assert "retry-after" in error_response(errors.BackendUnavailable("x")).headers
    assert "retry-after" not in error_response(errors.NotFound("x")).headers


def test_a_detail_is_for_operators() -> None:
    error = errors.StoreUnavailable("The store does not answer.", detail="redis.internal:6379 refuses s3cret")
    assert str(error) == "The store does not answer: redis.internal:6379 refuses s3cret."
    assert "redis.internal" not in f"{error.to_dict()}{error_response(error).body!r}"
    assert (error.code, errors.BrokerUnavailable("x").code) == ("store_unavailable", "broker_unavailable")
