"""The contract of storages."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from producer.storage import LocalStorage, ObjectMissing, Storage
from producer.storage.s3 import S3Storage
from shared.errors import StorageUnavailable
from tests.support.s3 import BUCKET, CREDENTIALS, S3

KEY = "t=a%2Fb/file-1/content"


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path / "files")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server: S3 = request.getfixturevalue("s3_server")
    return S3Storage(f"s3://{BUCKET}/{tmp_path.name}", server.url)


async def pieces(*data: bytes, error: Exception | None = None) -> AsyncGenerator[bytes]:
    for each in data:
        yield each
    if error is not None:
        raise error


async def read(storage: Storage, key: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key, start, end)])


async def keys(storage: Storage) -> set[str]:
    return {each.key async for each in storage.objects()}


async def test_an_object_is_read_whole_and_in_parts(storage: Storage) -> None:
    assert await keys(storage) == set()
    data = bytes(range(256)) * 30_000
    size = await storage.put(KEY, pieces(data[:10], b"", data[10:3_000_000], data[3_000_000:]))
    assert size == len(data)
    assert await read(storage, KEY, 0, size) == data
    assert await read(storage, KEY, 1, 2_500_001) == data[1:2_500_001]
    assert await read(storage, KEY, size - 1, size) == data[-1:]
    assert await read(storage, KEY, 7, 7) == b""
    assert await keys(storage) == {KEY}


async def test_an_object_may_be_empty(storage: Storage) -> None:
    assert await storage.put(KEY, pieces()) == 0
    assert await keys(storage) == {KEY}


async def test_a_put_again_replaces_it(storage: Storage) -> None:
    await storage.put(KEY, pieces(b"old"))
    await storage.put(KEY, pieces(b"newer"))
    assert await read(storage, KEY, 0, 5) == b"newer"


@pytest.mark.parametrize("size", [10, 12_000_000])
async def test_an_interrupted_put_leaves_nothing(storage: Storage, size: int) -> None:
    with pytest.raises(ValueError, match="the client has left"):
        await storage.put(KEY, pieces(bytes(size), error=ValueError("the client has left")))
    assert await keys(storage) == set()
    with pytest.raises(ObjectMissing):
        await read(storage, KEY, 0, 1)


async def test_a_deleted_object_is_missing(storage: Storage) -> None:
    await storage.put(KEY, pieces(b"one"))
    await storage.put("t=a/file-2/content", pieces(b"two"))
    await storage.delete([KEY, "t=a/file-3/content"])
    await storage.delete([])
    assert await keys(storage) == {"t=a/file-2/content"}
    with pytest.raises(ObjectMissing):
        await read(storage, KEY, 0, 3)


async def test_an_unusable_directory_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("not a directory")
    with pytest.raises(StorageUnavailable, match="not available"):
        await LocalStorage(tmp_path / "files").put(KEY, pieces(b"x"))
