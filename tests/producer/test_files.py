"""Files, with OpenAI's own SDK and by hand."""

import asyncio
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import pytest
from openai import AsyncOpenAI

from producer.files.reaper import reap_once
from producer.files.usage import bucket_of
from producer.storage import LocalStorage
from tests.producer.api import MODEL, Answer, Api, embedded_api
from tests.support.wait_until import wait_until

DATA = b'{"custom_id": "a"}\n' * 1000


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with embedded_api(worker=False, files_dir=tmp_path, file_limit=100_000) as api:
        yield api


@pytest.fixture
async def client(api: Api) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client:
        yield client


def objects_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def form(*fields: tuple[str, Any], filename: str | None = "in.jsonl") -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields:
        if name == "file":
            data.add_field(name, value, filename=filename, content_type="application/jsonl")
        else:
            data.add_field(name, value)
    return data


async def test_a_file_is_returned_unchanged(client: AsyncOpenAI, tmp_path: Path) -> None:
    file = await client.files.create(file=("in.jsonl", DATA), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(DATA), "in.jsonl", "batch")
    assert (file.status, file.expires_at) == ("processed", file.created_at + 30 * 86_400)
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.content(file.id)).content == DATA

    deleted = await client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(file.id)
    assert objects_in(tmp_path) == []


async def test_files_are_listed_by_age_purpose_and_page(client: AsyncOpenAI) -> None:
    made = [
        await client.files.create(file=(f"{number}.jsonl", b"{}"), purpose="batch" if number % 2 else "user_data")
        for number in range(5)
    ]
    newest_first = [file.id for file in reversed(made)]
    assert [file.id async for file in client.files.list()] == newest_first
    assert [file.id async for file in client.files.list(limit=2)] == newest_first
    assert [file.id async for file in client.files.list(order="asc", limit=2)] == newest_first[::-1]
    assert [file.id async for file in client.files.list(purpose="batch", limit=1)] == [made[3].id, made[1].id]
    page = await client.files.list(after=made[1].id)
    assert [file.id for file in page.data] == [made[0].id]


async def test_a_client_may_set_an_expiry(client: AsyncOpenAI) -> None:
    wanted = {"anchor": "created_at", "seconds": 7200}
    file = await client.files.create(file=("a.txt", b"x"), purpose="user_data", expires_after=wanted)
    assert file.expires_at == file.created_at + 7200


@pytest.mark.parametrize(
    ("header", "status", "start", "end"),
    [
        ("bytes=0-99", 206, 0, 100),
        ("bytes=100-", 206, 100, len(DATA)),
        ("bytes=-5", 206, len(DATA) - 5, len(DATA)),
        ("bytes=5-999999999", 206, 5, len(DATA)),
        ("bytes=0-1,5-6", 200, 0, len(DATA)),
        ("bytes=9-2", 200, 0, len(DATA)),
        ("lines=1-2", 200, 0, len(DATA)),
        ("bytes=-", 200, 0, len(DATA)),
    ],
)
async def test_ranges_follow_http(
    api: Api, client: AsyncOpenAI, header: str, status: int, start: int, end: int
) -> None:
    file = await client.files.create(file=("in.jsonl", DATA), purpose="batch")
    answer = await api.get(f"/v1/files/{file.id}/content", Range=header)
    assert (answer.status, answer.body) == (status, DATA[start:end])
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers.get("content-range") == (f"bytes {start}-{end - 1}/{len(DATA)}" if status == 206 else None)


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        ("{etag}", 206),
        (" {etag} ", 206),
        ("W/{etag}", 200),
        ('"another"', 200),
        ("Wed, 21 Oct 2065 07:28:00 GMT", 200),
        ("", 200),
    ],
)
async def test_if_range_with_another_etag_returns_the_whole_file(
    api: Api, client: AsyncOpenAI, if_range: str, status: int
) -> None:
    file = await client.files.create(file=("in.jsonl", DATA), purpose="batch")
    path = f"/v1/files/{file.id}/content"
    tag = (await api.get(path)).headers["etag"]
    headers = {"If-Range": if_range.format(etag=tag)}
    answer = await api.get(path, Range="bytes=100-", **headers)
    assert (answer.status, answer.body) == (status, DATA[100:] if status == 206 else DATA)
    assert answer.headers["etag"] == tag
    assert ("content-range" in answer.headers) == (status == 206)
    beyond = await api.get(path, Range="bytes=99999-", **headers)
    assert (beyond.status, beyond.body == DATA) == ((416, False) if status == 206 else (200, True))
    assert (await api.get(path, **headers)).status == 200


@pytest.mark.parametrize("header", ["bytes=19000-", "bytes=-0"])
async def test_an_empty_range_is_refused(api: Api, client: AsyncOpenAI, header: str) -> None:
    file = await client.files.create(file=("in.jsonl", DATA), purpose="batch")
    answer = await api.get(f"/v1/files/{file.id}/content", Range=header)
    assert (answer.status, answer.error["param"]) == (416, "Range")
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"


async def test_an_empty_file_may_be_uploaded(api: Api, client: AsyncOpenAI) -> None:
    file = await client.files.create(file=("in.jsonl", b""), purpose="batch")
    assert file.bytes == 0
    assert (await client.files.content(file.id)).content == b""


async def test_fields_come_in_any_order(api: Api) -> None:
    first = form(("file", DATA), ("purpose", "batch"), ("something", "else"))
    answer = await api.call("POST", "/v1/files", data=first)
    assert (answer.status, answer.json["bytes"]) == (200, len(DATA))


PURPOSE, FILE = ("purpose", "batch"), ("file", b"x")
BAD: dict[str, tuple[list[tuple[str, Any]], int, str]] = {
    "no purpose": ([FILE], 400, "purpose"),
    "an unknown purpose": ([("purpose", "fun"), FILE], 400, "purpose"),
    "no file": ([PURPOSE, ("something", "else")], 400, "file"),
    "two files": ([PURPOSE, FILE, FILE], 400, "file"),
    "too large a file": ([PURPOSE, ("file", bytes(100_001))], 413, "file"),
    "too large a field": ([("purpose", "x" * 70_000), FILE], 400, "purpose"),
    "no anchor": ([PURPOSE, ("expires_after[seconds]", "7200"), FILE], 400, "anchor"),
    "too soon": (
        [PURPOSE, FILE, ("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "60")],
        400,
        "seconds",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_an_invalid_upload_is_refused_and_leaves_nothing(api: Api, tmp_path: Path, case: str) -> None:
    fields, status, param = BAD[case]
    answer = await api.call("POST", "/v1/files", data=form(*fields))
    assert (answer.status, answer.error["type"]) == (status, "invalid_request_error")
    assert answer.error["param"].endswith(param)
    assert objects_in(tmp_path) == []
    assert (await api.get("/v1/files")).json["data"] == []


def raw_form(disposition: str | bytes, *fields: tuple[str, str], headers: bytes = b"") -> bytes:
    """A form whose file part has these headers."""
    said = disposition.encode() if isinstance(disposition, str) else disposition
    parts = [b"Content-Disposition: form-data; " + said + b"\r\n" + headers + b"\r\nx"]
    parts += [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in fields]
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


async def uploaded(api: Api, body: bytes) -> Answer:
    return await api.call("POST", "/v1/files", data=body, headers={"content-type": "multipart/form-data; boundary=x"})


NAMES: list[tuple[str | bytes, str]] = [
    ("name=\"file\"; filename*=UTF-8''na%C3%AFve%20b.jsonl", "naïve b.jsonl"),
    ("name=\"file\"; filename*=utf-8'de'%E2%82%AC.jsonl", "€.jsonl"),
    ('name="file"; filename*="UTF-8\'\'a.jsonl"', "a.jsonl"),
    ("name=\"file\"; filename*=iso-8859-1''%FC.jsonl", "ü.jsonl"),
    ("name=file; filename=\"=?utf-8?B?5pel5pys?=\"; filename*=utf-8''%E6%97%A5%E6%9C%AC.jsonl", "日本.jsonl"),
    ("name=file; filename=\"x.jsonl\"; filename*=utf-8''y.jsonl", "y.jsonl"),
    ("name=file; filename*=utf-8''y.jsonl; filename=x.jsonl", "y.jsonl"),
    ('name=file; filename="=?utf-8?B?5pel5pys?= =?utf-8?Q?.jsonl?="', "日本.jsonl"),
    ("name=file; filename*0*=utf-8''%E6%97%A5; filename*1=x; filename*2=\".jsonl\"", "日x.jsonl"),
    ("NAME=file; FileName=in.jsonl", "in.jsonl"),
    ('name = "file" ;  filename = "in.jsonl" ', "in.jsonl"),
    ('name="file"; filename="a;b\\"c\\\\d.jsonl"', 'a;b"c\\d.jsonl'),
    ('name="file"; filename="日本.jsonl"', "日本.jsonl"),
    ('name="file"; filename="C:\\data\\in.jsonl"', "in.jsonl"),
    ("name=\"fil\"; name*=utf-8''file; filename=in.jsonl", "in.jsonl"),
]


async def test_a_file_has_the_name_that_its_client_gave_it(api: Api) -> None:
    for disposition, filename in NAMES:
        answer = await uploaded(api, raw_form(disposition, PURPOSE))
        assert (answer.status, answer.json.get("filename")) == (200, filename), disposition


@pytest.mark.parametrize(
    ("disposition", "param"),
    [
        ("name=file; filename*=koi8-r''%C1.jsonl", "file"),
        ("name=file; filename*=utf-8''%FF.jsonl", "file"),
        ("name=file; filename*=a.jsonl", "file"),
        ("name=file; filename*=utf-8''a%00.jsonl", None),
        ("filename=a.jsonl", None),
    ],
)
async def test_a_name_that_cannot_be_read_is_refused(api: Api, disposition: str, param: str | None) -> None:
    answer = await uploaded(api, raw_form(disposition, PURPOSE))
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_encoded_parts_are_refused(api: Api) -> None:
    for encoding, status in ((b"binary", 200), (b"8BIT", 200), (b"base64", 400), (b"quoted-printable", 400)):
        headers = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
        assert (await uploaded(api, raw_form("name=file; filename=a.jsonl", PURPOSE, headers=headers))).status == status


DAY = "86400"
ANCHOR = ("expires_after[anchor]", "created_at")


@pytest.mark.parametrize(
    "fields",
    [
        [ANCHOR, ("expires_after[seconds]", DAY)],
        [("expires_after.anchor", "created_at"), ("expires_after.seconds", DAY)],
        [ANCHOR, ("expires_after.seconds", DAY)],
        [("expires_after", '{"anchor": "created_at", "seconds": 86400}')],
        [("expires_after", DAY)],
    ],
    ids=str,
)
async def test_an_expiry_is_read_in_every_format(api: Api, fields: list[tuple[str, str]]) -> None:
    file = (await api.call("POST", "/v1/files", data=form(PURPOSE, *fields, FILE))).json
    assert file["expires_at"] == file["created_at"] + int(DAY)


UNHEEDED: list[tuple[list[tuple[str, str]], str]] = [
    ([("expires_after", "60")], "expires_after.seconds"),
    ([("expires_after", "1e5")], "expires_after"),
    ([("expires_after", "86400.0")], "expires_after"),
    ([("expires_after", "true")], "expires_after"),
    ([("expires_after", "")], "expires_after"),
    ([("expires_after", "{}")], "expires_after"),
    ([("expires_after", "[86400]")], "expires_after"),
    ([("expires_after", "tomorrow")], "expires_after"),
    ([("expires_after", '{"seconds": 86400}')], "expires_after.anchor"),
    ([("expires_after", '{"anchor": "created_at"}')], "expires_after.seconds"),
    ([("expires_after", '{"anchor": "created_at", "seconds": true}')], "expires_after.seconds"),
    ([("expires_after", '{"anchor": "created_at", "seconds": 9223372036854775807}')], "expires_after.seconds"),
    ([("expires_after", '{"anchor": "created_at", "seconds": 86400, "days": 1}')], "expires_after.days"),
    ([ANCHOR, ("expires_after[seconds]", "9" * 30)], "expires_after.seconds"),
    ([ANCHOR, ("expires_after[seconds]", "-1")], "expires_after.seconds"),
    ([ANCHOR, ("expires_after[seconds]", "7200.5")], "expires_after.seconds"),
    ([ANCHOR, ("expires_after[seconds]", DAY), ("expires_after", DAY)], "expires_after.anchor"),
    ([ANCHOR, ("expires_after[seconds]", DAY), ("expires_after[seconds]", DAY)], "expires_after[seconds]"),
    ([("expires_after[days]", "1")], "expires_after[days]"),
    ([("expires_after[]", DAY)], "expires_after[]"),
    ([("expires_at", "1999999999")], "expires_at"),
    ([("Expires-After", DAY)], "Expires-After"),
    ([("ttl", DAY)], "ttl"),
    ([("metadata", "{}")], "metadata"),
    ([("webhook_url", "https://example.com")], "webhook_url"),
    ([("purpose", "batch")], "purpose"),
    ([("files[]", "x")], "files[]"),
]


async def test_known_fields_that_have_no_effect_are_refused(api: Api, tmp_path: Path) -> None:
    for fields, param in UNHEEDED:
        answer = await api.call("POST", "/v1/files", data=form(PURPOSE, *fields, FILE))
        assert (answer.status, answer.error["param"]) == (400, param), fields
        assert param in answer.error["message"]
    assert objects_in(tmp_path) == []


async def test_a_batch_file_must_be_jsonl(api: Api) -> None:
    answer = await api.call("POST", "/v1/files", data=form(PURPOSE, FILE, filename="in.json"))
    assert (answer.status, answer.error["param"]) == (400, "file")


async def test_an_invalid_form_is_refused(api: Api) -> None:
    as_json = await api.post({"purpose": "batch"}, path="/v1/files")
    assert (as_json.status, as_json.error["code"]) == (415, "unsupported_media_type")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = await api.call("POST", "/v1/files", data=b"--x\r\nnonsense", headers={"content-type": kind})
        assert (answer.status, answer.error["code"]) == (400, "invalid_form")


async def test_uploads_have_a_limit_of_their_own(tmp_path: Path) -> None:
    async with embedded_api(worker=False, files_dir=tmp_path, body_limit=2000, file_limit=50_000) as api:
        answer = await api.call("POST", "/v1/files", data=form(PURPOSE, ("file", bytes(50_000))))
        assert answer.status == 200
        answer = await api.call("POST", "/v1/files", data=form(PURPOSE, ("file", BytesIO(bytes(3_000_000)))))
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")


async def test_another_tenants_files_are_404(tmp_path: Path) -> None:
    async with embedded_api(
        worker=False, files_dir=tmp_path, api_keys="a=sk-alice-1-0123456789,bob=sk-bob-12-0123456789"
    ) as api:
        alice, bob = (
            AsyncOpenAI(base_url=api.url, api_key=key, max_retries=0)
            for key in ("sk-alice-1-0123456789", "sk-bob-12-0123456789")
        )
        file = await alice.files.create(file=("in.jsonl", DATA), purpose="batch")
        for call in (bob.files.retrieve, bob.files.content, bob.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(file.id)
        assert [each.id async for each in bob.files.list()] == []
        assert (await alice.files.content(file.id)).content == DATA
        await alice.close()
        await bob.close()


async def test_only_orphaned_objects_are_reaped(api: Api, client: AsyncOpenAI, tmp_path: Path) -> None:
    file = await client.files.create(file=("in.jsonl", DATA), purpose="batch")
    (entry,) = objects_in(tmp_path)
    orphan, partial, foreign = (
        entry.with_name("1-1.output"),
        entry.parent.parent / "file-0" / "content.abcd.part",
        tmp_path / "README",
    )
    partial.parent.mkdir()
    for path in (orphan, partial, foreign):
        path.write_bytes(b"x")
    files, storage = api.context.files, LocalStorage(tmp_path)
    assert await reap_once(files, storage, before=0) == 0
    assert await reap_once(files, storage, before=2**40) == 2
    assert foreign.exists()
    assert not orphan.exists() and not partial.exists()
    assert (await client.files.content(file.id)).content == DATA


# ── what a tenant's files may have ──

MEBIBYTE = 2**20


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Api]:
    async with embedded_api(files_dir=tmp_path, tenant_file_limit=MEBIBYTE, batch_window=8) as api:
        yield api


def assert_full(answer: Answer) -> None:
    assert (answer.status, answer.error["code"]) == (429, "storage_quota_exceeded")
    assert "tenant_file_limit" in answer.error["message"]
    assert int(answer.headers["retry-after"]) >= 1


async def upload(api: Api, data: object, **more: Any) -> Answer:
    return await api.call(
        "POST", "/v1/files", data=form(("purpose", "user_data"), ("file", data), filename="a"), **more
    )


async def test_files_above_the_tenants_limit_are_refused(small: Api, tmp_path: Path) -> None:
    files = [await upload(small, b"x" * 300_000) for _ in range(4)]
    assert [file.status for file in files] == [200, 200, 429, 429]
    assert_full(files[-1])
    assert len(objects_in(tmp_path)) == 2
    assert (await small.call("DELETE", f"/v1/files/{files[0].json['id']}")).status == 200
    assert (await upload(small, b"x" * 300_000)).status == 200


async def test_concurrent_uploads_do_not_exceed_the_limit(small: Api) -> None:
    answers = await asyncio.gather(*(upload(small, b"x" * 300_000) for _ in range(8)))
    assert sum(answer.status == 200 for answer in answers) == 2


async def test_an_upload_of_unknown_size_is_counted_as_it_arrives(small: Api, tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'--cut\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 100_000
        yield b"\r\n--cut--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=cut"}
    assert_full(await small.call("POST", "/v1/files", data=pieces(), headers=headers))
    assert objects_in(tmp_path) == []
    assert (await upload(small, b"x" * 600_000)).status == 200, "what it had taken was given back"


async def test_a_refused_form_releases_its_reservation(small: Api) -> None:
    for _ in range(4):
        data = form(("purpose", "nonsense"), ("file", b"x" * 600_000))
        assert (await small.call("POST", "/v1/files", data=data)).status == 400
    assert (await upload(small, b"x" * 600_000)).status == 200


async def test_expired_files_do_not_count(small: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = small.context.files.usage
    await usage.change("local", {bucket_of(time.time() + 1): MEBIBYTE})
    assert_full(await upload(small, b"x"))
    await usage.change("local", {bucket_of(time.time() + 1): -MEBIBYTE})
    await usage.change("local", {int(time.time()) - 1: MEBIBYTE})
    assert (await upload(small, b"x")).status == 200


async def test_a_batch_without_room_for_answers_ends_and_keeps_finished_lines(small: Api) -> None:
    assert (await upload(small, b"x" * 700_000)).status == 200
    body = {"model": MODEL, "messages": [{"role": "user", "content": "seed=7 ttft=100"}], "max_tokens": 500}
    one = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    lines = b"".join(orjson.dumps({"custom_id": str(number), **one}) + b"\n" for number in range(200))
    file = (await small.call("POST", "/v1/files", data=form(("purpose", "batch"), ("file", lines)))).json["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await small.post(asked, "/v1/batches")).json["id"]

    async def over() -> Any:
        found = (await small.get(f"/v1/batches/{batch}")).json
        assert found["status"] not in ("validating", "in_progress", "cancelling")
        return found

    ended = await wait_until(over, "the batch to end")
    assert ended["status"] == "cancelled"
    assert ended["errors"]["data"][0]["code"] == "storage_quota_exceeded"
    counts = ended["request_counts"]
    assert 0 < counts["completed"] < 200
    assert counts["completed"] + counts["failed"] == 200
    errors = (await small.get(f"/v1/files/{ended['error_file_id']}/content")).body
    assert b'"storage_quota_exceeded"' in errors
    assert_full(await small.post(asked, "/v1/batches"))
