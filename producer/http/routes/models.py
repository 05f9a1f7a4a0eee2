"""/v1/models: lists the models that a key may use."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from producer.http.context import context_of, json_response, principal_of
from producer.http.openapi import answers, is_json
from producer.http.response_models import Model, ModelList
from producer.http.serializers import model_object

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List models", responses=answers(is_json(ModelList, "The catalog.")))
async def list_models(request: Request) -> Response:
    """Lists the models that the key may use."""
    catalog, principal = context_of(request).catalog, principal_of(request)
    models = [model for model in await catalog.models() if principal.may_use(model.id)]
    data = [model_object(model, await catalog.workers(model.id)) for model in models]
    return json_response({"object": "list", "data": data})


@router.get("/{model_id:path}", summary="A model", responses=answers(is_json(Model, "The model."), 404))
async def get_model(request: Request, model_id: str) -> Response:
    """Returns a model by its id or alias."""
    if not model_id:
        raise HTTPException(404)  # The path is /v1/models/.
    catalog = context_of(request).catalog
    model = await catalog.get(model_id)
    principal_of(request).require_model(model.id, model_id)
    return json_response(model_object(model, await catalog.workers(model.id)))
