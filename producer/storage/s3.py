"""Stores objects in S3-compatible storage, for API replicas on several hosts. Only this file imports the S3 driver."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

from producer.storage.port import CHUNK, ObjectMissing, StoredObject
from shared.errors import StorageUnavailable, sentence
from shared.settings import SettingsError

try:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import S3Store
except ImportError:
    raise SettingsError("Files on S3 need the extra 's3': pip install 'dodil-ignite[s3]'.") from None


LONGEST = 500
"""Characters of a driver's error that are logged."""

PATIENCE = timedelta(seconds=20)
"""How long a failed request is retried."""

PART, PARTS = 5 * 1024 * 1024, 4
"""Bytes of one part of a large object (the least that S3 accepts), and parts uploaded at the same time."""


class S3Storage:
    """`url`: `s3://bucket/prefix`. `endpoint`: the server's URL, None for Amazon. Keys and region come from the usual
    sources of AWS tools (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, the instance's role).
    """

    def __init__(self, url: str, endpoint: str | None) -> None:
        parts = urlsplit(url)
        options: dict[str, str] = {"endpoint": endpoint} if endpoint else {}
        self._store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config={"virtual_hosted_style_request": False, **options},  # pyright: ignore[reportArgumentType]
            retry_config={"max_retries": 3, "retry_timeout": PATIENCE},
            client_options={"allow_http": endpoint is not None and endpoint.startswith("http:")},
        )

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        counted = Counted(chunks)
        with translated(key):
            await obstore.put_async(self._store, key, counted.chunks(), chunk_size=PART, max_concurrency=PARTS)
        return counted.size

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        if start >= end:  # HTTP cannot express an empty range.
            return
        with translated(key):
            found = await obstore.get_async(self._store, key, options={"range": (start, end)})
            async for chunk in found.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            with translated(keys[0]):
                await obstore.delete_async(self._store, list(keys))

    async def objects(self) -> AsyncIterator[StoredObject]:
        with translated(""):
            pages = obstore.list(self._store)  # pyright: ignore[reportUnknownMemberType]
            async for page in pages:
                for each in page:
                    yield StoredObject(each["path"], each["last_modified"].timestamp())


class Counted:
    """Counts the bytes of chunks as they are read."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    async def chunks(self) -> AsyncGenerator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


@contextmanager
def translated(key: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissing(key) from None
    except BaseError as error:
        raise StorageUnavailable(
            "The storage of files is not available at present.", detail=sentence(error).splitlines()[0][:LONGEST]
        ) from error
