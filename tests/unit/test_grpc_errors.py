"""Which status an error has over gRPC, and what its details say."""

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from producer.http.errors import status_of
from producer.rpc.errors import LONGEST, code_of, rich_status
from shared import errors
from shared.errors import IgniteError, RecordedError

Code = grpc.StatusCode

TABLE = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.ABORTED,
    410: Code.NOT_FOUND,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.INVALID_ARGUMENT,
    416: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
    507: Code.UNAVAILABLE,
}


def kinds_below(kind: type[IgniteError]) -> list[type[IgniteError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in kinds_below(below))]


KINDS = [kind for kind in kinds_below(IgniteError) if kind.__module__ == errors.__name__ and kind is not RecordedError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_place_in_the_table(kind: type[IgniteError]) -> None:
    error = kind("Something is wrong.")
    expected = Code.CANCELLED if kind is errors.JobCancelled else TABLE[status_of(error)]
    assert code_of(error) is expected
    recorded = RecordedError(error.to_dict())
    assert code_of(recorded) is (expected if status_of(recorded) == status_of(error) else TABLE[status_of(recorded)])


def test_the_json_error_is_in_the_details() -> None:
    error = errors.QueueFull("Too much.", param="model", retry_after=7)
    status, info, retry = rich_status(error), ErrorInfo(), RetryInfo()
    assert (status.code, status.message) == (8, "Too much.")
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("queue_full", "dodil.ignite.v1")
    assert dict(info.metadata) == error.to_dict()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.seconds == 7


def test_what_is_null_in_json_is_not_there() -> None:
    status, info = rich_status(errors.EngineError("It broke.")), ErrorInfo()
    (packed,) = status.details
    assert packed.Unpack(info)
    assert dict(info.metadata) == {"message": "It broke.", "type": "server_error", "code": "engine_error"}


def test_a_status_is_never_larger_than_clients_take() -> None:
    """In headers: the message with three characters for a byte, and all of it again in base64."""
    for text in ("x" * 100_000, "€" * 100_000):
        status = rich_status(errors.InvalidRequest(text, param=text))
        size = len(status.message.encode())
        assert LONGEST - 3 <= size <= LONGEST
        assert status.message.endswith("…")
        assert 3 * size + len(status.SerializeToString()) * 4 / 3 < 8 * 1024
