"""Maps errors to gRPC statuses, here only. ErrorInfo has the fields of HTTP's JSON error."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from producer.http.errors import headers_of, retry_after, status_of
from shared.errors import IgniteError

DOMAIN = "dodil.ignite.v1"

CODES: Mapping[int, grpc.StatusCode] = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    410: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.UNAVAILABLE,
}
"""gRPC codes by HTTP status. Other statuses are INVALID_ARGUMENT below 500, and INTERNAL from 500."""

LONGEST = 1000
"""Bytes of a text in a status. Headers repeat it several times, and clients accept 8 KiB of them."""


def code_of(error: IgniteError) -> grpc.StatusCode:
    if error.code == "cancelled":
        return grpc.StatusCode.CANCELLED
    status = status_of(error)
    return CODES.get(status, grpc.StatusCode.INTERNAL if status >= 500 else grpc.StatusCode.INVALID_ARGUMENT)


def rich_status(error: IgniteError) -> Status:
    """Returns a google.rpc.Status with ErrorInfo, and with RetryInfo if HTTP's answer has Retry-After."""
    described = error.to_dict()
    texts = {name: shortened(str(value)) for name, value in described.items() if value is not None}
    details = [packed(ErrorInfo(reason=texts["code"], domain=DOMAIN, metadata=texts))]
    if "retry-after" in headers_of(error, status_of(error)):
        details.append(packed(RetryInfo(retry_delay=Duration(seconds=retry_after(error)))))
    number, _ = code_of(error).value
    return Status(code=number, message=texts["message"], details=details)


def packed(detail: ErrorInfo | RetryInfo) -> Any:
    wrapped = Any()
    wrapped.Pack(detail)
    return wrapped


def shortened(text: str) -> str:
    encoded = text.encode()
    return text if len(encoded) <= LONGEST else encoded[: LONGEST - 3].decode(errors="ignore") + "…"
