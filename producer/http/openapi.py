"""Describes requests and answers for /openapi.json. FastAPI cannot derive them: handlers read and return bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from producer.batches.requests import BatchRequest
from producer.files.expiry import EXPIRY
from producer.files.upload import PURPOSES
from producer.http.response_models import ChatCompletion, ChatCompletionChunk, Error, HealthReport, Job
from producer.responses.request import ResponsesRequest
from producer.responses.schema import Response
from shared.schema import CALL_REQUESTS, MAX_DEADLINE, ChatCompletionRequest, MetadataUpdate

JSON = "application/json"
SSE = "text/event-stream"
MAX_FRAME = 2**53
"""The greatest frame number in a request: JSON numbers are exact up to here."""

COMPONENTS = "#/components/schemas/"


Answers = dict[int | str, dict[str, Any]]

ERRORS: Mapping[int, str] = {
    400: "The request is invalid; `param` names the field.",
    401: "No API key, or an unknown one.",
    403: "The key may not do this.",
    404: "Unknown model, or no such object of this tenant.",
    409: "The job's state does not allow it.",
    410: "The data has expired.",
    413: "The body is too large.",
    415: "The call does not support the body's media type.",
    416: "The range is beyond the end of the file.",
    429: "A limit is reached: retry after `Retry-After` seconds.",
    500: "The engine failed.",
    503: "RabbitMQ or the store is unavailable, this server is overloaded, or it is shutting down.",
    504: "The deadline passed.",
    507: "The disk for jobs or files is full.",
}
FOR_COMPLETIONS = (400, 403, 404, 409, 413, 415, 429, 500, 504)
FOR_A_JOB = (400, 404, 410)


def answers(success: Answers, *errors: int) -> Answers:
    """Returns a route's `responses`: its success, its documented errors, and the error object as the default."""
    known: Answers = {status: {"model": Error, "description": ERRORS[status]} for status in (*errors, 401, 503)}
    return success | dict(sorted(known.items(), key=str)) | {"default": {"model": Error, "description": "An error."}}


def is_json(model: type[BaseModel], description: str, status: int = 200) -> Answers:
    return {status: {"model": model, "description": description}}


def is_stream(description: str) -> Answers:
    data = {"type": "string", "description": "A ChatCompletionChunk or an Error as JSON; at last `[DONE]`."}
    event = {"type": "object", "required": ["data"], "properties": {"data": data, "id": {"type": "string"}}}
    return {200: {"description": description, "content": {SSE: {"schema": event}}}}


RESPONSE_EVENTS = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "description": "The event's type, such as `response.output_text.delta`."},
        "data": {"type": "string", "description": "The event as JSON, with its `sequence_number`."},
    },
}
RESPONSE = is_json(Response, "The response; its events where `stream` is true.")
RESPONSE[200]["content"] = {SSE: {"schema": RESPONSE_EVENTS}}
COMPLETION = is_json(ChatCompletion, "The completion; its stream where `stream` is true.")
COMPLETION[200]["content"] = is_stream("")[200]["content"]
COMPLETION_STREAM = is_stream("Chunks, each in a `data:` line with a blank line after it, then `data: [DONE]`.")
ALIVE = is_json(HealthReport, "This process runs.")
FILE_CONTENT: Answers = {
    200: {"description": "The whole file.", "content": {"application/octet-stream": {}}},
    206: {"description": "The requested range.", "content": {"application/octet-stream": {}}},
}
READINESS = is_json(HealthReport, "All parts answer.") | is_json(HealthReport, "A part does not answer.", 503)
UNCHANGED: Answers = {304: {"description": "Unchanged since the ETag in `If-None-Match`."}}
JOB_CREATED = is_json(Job, "The job, for `background` and `Prefer: respond-async`.", 202)


def header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "A request that is sent again with this key within 24 hours gets the same job's answer.",
    type="string",
    minLength=1,
    maxLength=255,
    pattern=r"^[\x20-\x7e]+$",
)
DEADLINE = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DEADLINE}
COMPLETION_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": {"$ref": f"{COMPONENTS}ChatCompletionRequest"}}},
    },
    "parameters": [
        header("Prefer", "`respond-async`: a job. `wait=N`: the completion if it is done in N seconds.", type="string"),
        header("Cancel-After", "The deadline in seconds; `deadline_seconds` in the body overrides it.", **DEADLINE),
        header("X-On-Disconnect", "`continue`: the job goes on when this client disconnects.", type="string"),
        IDEMPOTENCY_KEY,
    ],
}
RESPONSE_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": {"$ref": f"{COMPONENTS}ResponsesRequest"}}},
    },
    "parameters": COMPLETION_REQUEST["parameters"],
}


def call_request(name: str) -> dict[str, Any]:
    """Describes the body of an endpoint other than chat, by the name of its schema."""
    schema = {"$ref": f"{COMPONENTS}{name}"}
    return {
        "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
        "parameters": COMPLETION_REQUEST["parameters"],
    }


METADATA_FILTER: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "style": "deepObject",
            "explode": True,
            "description": "`metadata[key]=value`: returns only objects with this metadata.",
            "schema": {
                "type": "object",
                "propertyNames": {"minLength": 1},
                "additionalProperties": {"type": "string"},
            },
        }
    ]
}
METADATA_UPDATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": {"$ref": f"{COMPONENTS}MetadataUpdate"}}},
    },
}
BATCH_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": {"$ref": f"{COMPONENTS}BatchRequest"}}},
    },
    "parameters": [IDEMPOTENCY_KEY],
}
FILE_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "purpose": {"type": "string", "enum": [*PURPOSES]},
                        "file": {"type": "string", "format": "binary"},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": EXPIRY[0], "maximum": EXPIRY[1]},
                    },
                }
            }
        },
    }
}
LAST_EVENT_ID: dict[str, Any] = {
    "parameters": [header("Last-Event-ID", "Resume after this frame.", type="integer", minimum=0, maximum=MAX_FRAME)],
}


def openapi_of(app: FastAPI, *, keyed: bool) -> dict[str, Any]:
    """Returns the document, built once. `keyed`: whether every call needs a key."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = document["components"]["schemas"]
        for model in (
            ChatCompletionRequest,
            ChatCompletionChunk,
            MetadataUpdate,
            BatchRequest,
            *CALL_REQUESTS.values(),
        ):
            schema = model.model_json_schema(ref_template=f"{COMPONENTS}{{model}}")
            schemas.update(schema.pop("$defs", {}), **{model.__name__: schema})
        schemas.update(responses_schemas())
        without_nulls(document)
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}] if keyed else [{"key": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema


def responses_schemas() -> dict[str, Any]:
    """Returns the schemas of a request for a response. Some of their names are those of other schemas for chat."""
    schema = ResponsesRequest.model_json_schema(ref_template=f"{COMPONENTS}Responses{{model}}")
    parts = {f"Responses{name}": part for name, part in schema.pop("$defs", {}).items()}
    return {**parts, "ResponsesRequest": schema}


def without_nulls(document: Mapping[str, Any]) -> None:
    """Removes null from the types of optional query parameters: a query cannot express it."""
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                schema = cast(dict[str, Any], parameter["schema"])
                (kind,) = [kind for kind in schema.pop("anyOf", [{}]) if kind.get("type") != "null"]
                schema.update(kind)
