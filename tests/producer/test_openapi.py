"""The OpenAPI description is complete and correct."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from producer.http import response_models
from tests.producer.api import Api, ask, embedded_api


@pytest.fixture
async def document(api: Api) -> Any:
    return (await api.get("/openapi.json")).json


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from references(child)


async def test_every_reference_leads_somewhere(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    components = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= components


async def test_every_operation_has_a_name_and_its_errors(document: Any) -> None:
    described = dict(operations(document))
    ids = [operation["operationId"] for operation in described.values()]
    assert len(set(ids)) == len(ids)
    for name, operation in described.items():
        if "/v1/" in name:
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/Error"}, name
            assert {"401", "503"} <= operation["responses"].keys(), name
        assert "422" not in operation["responses"], name


async def test_every_field_of_the_request_is_described(document: Any) -> None:
    schemas = document["components"]["schemas"]
    for path in ("/v1/chat/completions", "/v1/chat/completions/stream"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatCompletionRequest"}
    fields = schemas["ChatCompletionRequest"]["properties"]
    assert {"messages", "tools", "response_format", "deadline_seconds"} <= fields.keys()
    assert schemas["ChatCompletionRequest"]["required"] == ["model", "messages"]


async def test_a_key_is_required_where_keys_exist() -> None:
    async with embedded_api(api_keys="alice=secret-of-alice-4711") as api:
        document = (await api.get("/openapi.json")).json
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}


async def test_a_key_is_optional_on_a_server_without_keys(document: Any) -> None:
    assert document["security"] == [{"key": []}, {}]


async def test_the_docs_page_has_its_own_script_and_needs_no_key() -> None:
    async with embedded_api(api_keys="alice=secret-of-alice-4711") as api:
        page = await api.get("/docs")
        scripts = re.findall(r'<script src="([^"]+)"', page.body.decode())
        assert page.headers["content-type"].startswith("text/html")
        assert b"/openapi.json" in page.body
        assert scripts
        for script in scripts:
            assert (await api.get(script)).status == 200
        for way_out in ("..", "%2e%2e", "../../etc/passwd"):
            assert (await api.get(f"{scripts[0].rpartition('/')[0]}/{way_out}")).status in (401, 404)


def fits(shape: type[BaseModel], value: Any) -> None:
    """Asserts that an object has exactly the described fields, with their types."""
    TypeAdapter(shape).validate_python(value, extra="forbid")


async def test_answers_match_their_description(api: Api) -> None:
    completion = (await api.post(ask(n=2))).json
    fits(response_models.ChatCompletion, completion)
    for chunk in (await api.post(ask(stream=True, stream_options={"include_usage": True}))).frames:
        fits(response_models.ChatCompletionChunk, chunk)
    fits(response_models.Job, await api.job(completion["id"]))
    fits(response_models.Job, await api.job(await api.submit(ask("refuse")), wait=5))
    fits(response_models.JobList, (await api.get("/v1/jobs")).json)
    fits(response_models.ModelList, (await api.get("/v1/models")).json)
    fits(response_models.Error, (await api.get("/nowhere")).json)
    fits(response_models.HealthReport, (await api.get("/readyz")).json)
