"""Stores objects as files in a directory, which the API replicas of one host may share."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import structlog

from producer.storage.port import CHUNK, ObjectMissing, StoredObject
from shared.errors import StorageFull, StorageUnavailable
from shared.private_files import DIRECTORY_MODE, FILE_MODE, private_directory

log = structlog.get_logger(__name__)

T = TypeVar("T")

TENANT = "t="
"""The prefix of tenants' directories."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_RETRY = 60.0
"""Retry-After, in seconds: an operator has to free space first."""


class LocalStorage:
    """Runs every disk operation in a thread, because a slow disk must not block the event loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> int:
        path = self._directory / key
        begun = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        try:
            file = await off_loop(partial(create, self._directory, begun))
        except StorageUnavailable:
            await off_loop(partial(remove, begun))
            raise
        try:
            size = await write_all(file, chunks)
            await off_loop(partial(publish, file, begun, path))
        except BaseException:
            discard(file, begun)
            raise
        return size

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        try:
            file = await off_loop(partial(open_at, self._directory / key, start))
        except FileNotFoundError:
            raise ObjectMissing(key) from None
        with file:
            while start < end:
                data = await off_loop(partial(file.read, min(CHUNK, end - start)))
                if not data:
                    return
                start += len(data)
                yield data

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await off_loop(partial(remove, self._directory / key))

    async def objects(self) -> AsyncIterator[StoredObject]:
        for folder in await off_loop(partial(folders, self._directory)):
            for each in await off_loop(partial(files_in, self._directory, folder)):
                yield each


def require_usable(directory: Path, *, make: bool) -> None:
    """Makes an existing directory private. `make`: creates a missing one now; otherwise the first file creates it.
    Raises OSError if files cannot be stored in it.
    """
    if not (make or directory.exists()):
        return
    private_directory(directory, lambda name: name.startswith(TENANT))
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


async def off_loop(step: Callable[[], T]) -> T:
    """Runs `step` in a thread. Raises StorageFull for a full disk, FileNotFoundError, and StorageUnavailable for other
    errors.
    """
    try:
        return await asyncio.to_thread(step)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in NO_ROOM:
            log.error("storage.full", error=str(error), next="uploads are refused until there is room")
            raise StorageFull("The disk for files is full.", retry_after=FULL_RETRY) from error
        raise StorageUnavailable("The storage of files is not available at present.", detail=str(error)) from error


async def write_all(file: BinaryIO, chunks: AsyncIterable[bytes]) -> int:
    """Writes small chunks in pieces of CHUNK bytes; returns the total size."""
    size, held, waiting = 0, 0, list[bytes]()
    async for chunk in chunks:
        waiting.append(chunk)
        held += len(chunk)
        if held >= CHUNK:
            size += await off_loop(partial(write, file, b"".join(waiting)))
            waiting, held = [], 0
    return size + await off_loop(partial(write, file, b"".join(waiting)))


def create(root: Path, path: Path) -> BinaryIO:
    """Creates the file, and its directory again if another process removes it as empty meanwhile."""
    while True:
        root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            for folder in reversed(path.relative_to(root).parents[:-1]):
                (root / folder).mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            return FileIO(path, "xb", opener=partial(os.open, mode=FILE_MODE))


def write(file: BinaryIO, data: bytes) -> int:
    """Writes all bytes: one unbuffered write may accept fewer."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    return len(data)


def open_at(path: Path, start: int) -> BinaryIO:
    file = path.open("rb", buffering=0)
    file.seek(start)
    return file


def publish(file: BinaryIO, begun: Path, path: Path) -> None:
    """Makes the file durable: syncs its bytes, renames it, then syncs the directory."""
    with file:
        os.fsync(file.fileno())
    begun.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def discard(file: BinaryIO, begun: Path) -> None:
    file.close()
    remove(begun)


def remove(path: Path) -> None:
    """Deletes the file, and its directory if that is empty."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


def folders(directory: Path) -> list[str]:
    return [folder for folder, _, _ in os.walk(directory)]


def files_in(directory: Path, folder: str) -> list[StoredObject]:
    found: list[StoredObject] = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file():
                    path = Path(entry.path).relative_to(directory)
                    found.append(StoredObject(str(path), entry.stat().st_mtime))
    return found
