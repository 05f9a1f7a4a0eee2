"""/v1/models: the catalog."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from producer.dependencies import doors_of, json_response
from producer.openapi import answers, is_json
from producer.shapes import Model, ModelList
from producer.wire import model_object

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List models", responses=answers(is_json(ModelList, "The catalog.")))
async def list_models(request: Request) -> Response:
    models = await doors_of(request).catalog.models()
    return json_response({"object": "list", "data": [model_object(model) for model in models]})


@router.get("/{model_id:path}", summary="A model", responses=answers(is_json(Model, "The model."), 404))
async def get_model(request: Request, model_id: str) -> Response:
    return json_response(model_object(await doors_of(request).catalog.get(model_id)))
