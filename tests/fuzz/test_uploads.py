"""Forms and batch files of any content: refused, or kept as they are; a batch of any file ends."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.target import HANG, Target
from tests.support.batches import OVER
from tests.support.fuzz import examples
from tests.support.http_bytes import damaged
from tests.support.mutations import VALUES, bodies, change, paths
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENDPOINT = "/v1/chat/completions"
BOUNDARIES = ("x", "-" * 70, "a b", 'a"b', "", "é", "x" * 300, "\t")
DISPOSITIONS = (
    'form-data; name="file"; filename="in.jsonl"',
    'form-data; name="purpose"',
    'form-data; name="expires_after[seconds]"',
    'form-data; name="expires_after[anchor]"',
    'form-data; name="file"; filename="../../etc/passwd"',
    "form-data; name=\"file\"; filename*=UTF-8''a%00.jsonl",
    'form-data; name="' + "n" * 3000 + '"',
    "form-data; name=",
    'attachment; filename="\xff"',
    "",
)
CONTENTS = st.one_of(
    st.sampled_from([b"batch", b"user_data", b"3600", b"created_at", b"-1", b"9" * 400, b"", b"\r\n--x", b"--x--\r\n"]),
    st.binary(max_size=100),
)


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes]:
    """A content type and a body that may fit to it."""
    boundary = draw(st.sampled_from(BOUNDARIES)) if not draw(st.integers(0, 3)) else "x"
    body = b""
    for disposition in [*DISPOSITIONS[:2], *draw(st.lists(st.sampled_from(DISPOSITIONS), max_size=3))]:
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode("latin-1")
        body += (b"batch" if "purpose" in disposition else draw(CONTENTS)) + b"\r\n"
    body += f"--{boundary}--\r\n".encode("latin-1")
    if draw(st.booleans()):
        body = draw(damaged(st.just(body)))
    quoted = f"multipart/form-data; boundary={boundary}"
    return draw(st.sampled_from([quoted, quoted, f'multipart/form-data; boundary="{boundary}"', "text/plain"])), body


@examples(40)
@given(form=forms())
async def test_forms(target: Target, form: tuple[str, bytes]) -> None:
    content_type, body = form
    headers = {"content-type": content_type.encode().decode("latin-1")}
    async with target.http.post("/v1/files", data=body, headers=headers) as answer:
        said = await answer.json()
    assert answer.status < 500, said
    if answer.status == 200:
        async with target.http.get(f"/v1/files/{said['id']}/content") as content:
            assert len(await content.read()) == said["bytes"]
        async with target.http.delete(f"/v1/files/{said['id']}") as deleted:
            assert deleted.status == 200
    else:
        assert said["error"]["message"]
    await target.assert_well()


@st.composite
def batch_files(draw: st.DrawFn) -> bytes:
    """Lines of a batch, with anything in them changed; blank ones, and what is no line at all."""
    lines: list[bytes] = []
    for number in range(draw(st.integers(0, 4))):
        body = {"model": "simulated", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        line: Any = {"custom_id": str(number), "method": "POST", "url": ENDPOINT, "body": body}
        for _ in range(draw(st.integers(0, 2)) if draw(st.integers(0, 2)) == 0 else 0):
            change(draw, line, draw(st.sampled_from(paths(line))))
        text = json.dumps(line).encode()
        lines.append(draw(st.one_of(st.just(text), st.just(text), damaged(st.just(text)), bodies())))
    for _ in range(draw(st.integers(0, 2))):
        odd = st.sampled_from([b"", b"\r", b"null", b"[]", b"\xef\xbb\xbf", b"\x00", b"\xff\xfe"])
        lines.insert(draw(st.integers(0, len(lines))), draw(st.one_of(odd, st.binary(max_size=30))))
    return draw(st.sampled_from([b"\n", b"\r\n"])).join(lines) + draw(st.sampled_from([b"", b"\n", b"\n\n\n"]))


@examples(15)
@given(data=batch_files(), more=st.dictionaries(st.sampled_from(["metadata", "output_expires_after"]), VALUES))
async def test_a_batch_of_any_file_ends_and_answers_each_line(
    target: Target, data: bytes, more: dict[str, Any]
) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
    form += b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + data + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    async with target.http.post("/v1/files", data=form, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        file = (await answer.json())["id"]
    asked = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h", **more}
    async with target.http.post("/v1/batches", json=asked) as answer:
        batch = await answer.json()
    assert answer.status < 500, batch
    if answer.status == 200:
        await assert_ends(target, batch["id"])
    await target.assert_well()


async def assert_ends(target: Target, batch_id: str) -> None:
    """As failed, with what is wrong with it, or with an answer or an error for each line."""

    async def over() -> Any:
        async with target.http.get(f"/v1/batches/{batch_id}") as answer:
            batch = await answer.json()
        return batch if batch["status"] in OVER else None

    batch = await wait_until(over, "the batch to end", within=HANG * 3)
    if batch["status"] == "failed":
        assert batch["errors"]["data"]
        return
    assert batch["status"] == "completed", batch
    files = [batch[name] for name in ("output_file_id", "error_file_id") if batch[name]]
    lines = [line for each in files for line in await lines_of(target, each)]
    assert len(lines) == batch["request_counts"]["total"]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    for line in lines:
        assert line["response"] is None or line["response"]["status_code"] < 500, line


async def lines_of(target: Target, file_id: str) -> list[Any]:
    async with target.http.get(f"/v1/files/{file_id}/content") as answer:
        return [json.loads(line) for line in (await answer.read()).splitlines()]
