"""The routes of /v1/files, as in OpenAI's API."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from producer.files.content import ContentAnswer, range_applies, requested_range
from producer.files.entry import FileEntry, file_object, new_file_id
from producer.files.upload import Upload, expiry_of, purpose_of
from producer.files.usage import STEP
from producer.http import response_models, serializers
from producer.http.context import context_of, json_response, tenant_of
from producer.http.errors import error_response
from producer.http.openapi import FILE_CONTENT, FILE_UPLOAD, answers, is_json
from shared.errors import RangeNotSatisfiable

router = APIRouter(prefix="/v1/files", tags=["files"])

FileId = Annotated[str, Path(max_length=200)]
NAME_LIMIT = 255


@router.post(
    "",
    summary="Upload a file",
    responses=answers(is_json(response_models.File, "The file."), 400, 413, 415, 429, 507),
    openapi_extra=FILE_UPLOAD,
)
async def create_file(request: Request) -> Response:
    """Accepts multipart/form-data with `purpose` and `file`, in any order. A file with the purpose `batch` must have a
    name that ends in `.jsonl`.
    """
    context, tenant, now = context_of(request), tenant_of(request), time.time()
    upload = Upload(request.headers.get("content-type", ""), request.stream(), context.settings.file_limit)
    file_id = new_file_id()
    async with context.files.usage.room(tenant, expected_size(request, context.settings.file_limit)) as room:
        part = await context.files.upload(tenant, file_id, room.counted(upload.chunks()))
        try:
            entry = FileEntry(
                id=file_id,
                filename=(upload.filename or "")[-NAME_LIMIT:],
                purpose=purpose_of(upload),
                created_at=now,
                expires_at=now + (expiry_of(upload) or context.settings.file_retention),
                parts=(part,),
            )
            await context.files.add(tenant, entry)
        except BaseException:
            await context.files.discard(part)
            raise
        room.keep(entry)
    return json_response(file_object(entry))


def expected_size(request: Request, most: int) -> int:
    """Returns the file's approximate size in bytes, from Content-Length."""
    declared = request.headers.get("content-length", "")
    return min(int(declared), most) if declared.isdecimal() else min(STEP, most)


@router.get("", summary="List files", responses=answers(is_json(response_models.FileList, "A page of files."), 400))
async def list_files(
    request: Request,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Lists files, newest first unless `order` is `asc`. `after`: the last id of the previous page."""
    files, more = await context_of(request).files.list(
        tenant_of(request), purpose=purpose, after=after, limit=limit, oldest_first=order == "asc"
    )
    return json_response(serializers.page([await shown(request, entry) for entry in files], has_more=more))


async def shown(request: Request, entry: FileEntry) -> dict[str, object]:
    """Returns OpenAI's `file` object, with the current size of a growing file."""
    if entry.growing is None:
        return file_object(entry)
    content = await context_of(request).files.content(tenant_of(request), entry)
    return file_object(entry, size=content.size)


@router.get("/{file_id}", summary="Get a file", responses=answers(is_json(response_models.File, "The file."), 404))
async def get_file(request: Request, file_id: FileId) -> Response:
    return json_response(await shown(request, await context_of(request).files.get(tenant_of(request), file_id)))


@router.get("/{file_id}/content", summary="Get a file's bytes", responses=answers(FILE_CONTENT, 404, 416))
async def get_content(request: Request, file_id: FileId) -> Response:
    """Returns the whole file, or the range in `Range`; with `If-Range`, the range only if the file is unchanged. For a
    file that a batch still writes, returns the bytes so far, with `X-Incomplete: true` and the number of lines in
    `X-Last-Line`.
    """
    files, tenant = context_of(request).files, tenant_of(request)
    entry = await files.get(tenant, file_id)
    content = await files.content(tenant, entry)
    etag, range_ = f'"{file_id}-{content.size}"', request.headers.get("range")
    headers = {"content-type": "application/octet-stream", "etag": etag}
    if content.lines is not None:
        headers |= {"x-incomplete": "true", "x-last-line": str(content.lines), "cache-control": "no-store"}
    if not range_applies(request.headers.get("if-range"), etag):
        range_ = None
    try:
        span = requested_range(range_, content.size)
    except RangeNotSatisfiable as error:
        refusal = error_response(error)
        refusal.headers["content-range"] = f"bytes */{content.size}"
        return refusal
    return ContentAnswer(
        lambda start, end: files.read(tenant, file_id, start, end), content.size, span, headers=headers
    )


@router.delete(
    "/{file_id}",
    summary="Delete a file",
    responses=answers(is_json(response_models.FileDeleted, "The file is deleted."), 404, 409),
)
async def delete_file(request: Request, file_id: FileId) -> Response:
    await context_of(request).files.delete(tenant_of(request), file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})
