"""Creates directories and files that only their owner may read and write, and restricts existing ones."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

DIRECTORY_MODE, FILE_MODE = 0o700, 0o600
OTHERS = 0o077


def private_directory(path: Path, is_ours: Callable[[str], bool]) -> None:
    """Creates the directory, or restricts an existing one to its owner. An existing directory with other entries than
    those that `is_ours` accepts by name (a home directory, /tmp) keeps its mode; then only its files become private.
    Raises OSError.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    if not is_open_to_others(path):
        return
    if all(map(is_ours, os.listdir(path))) and is_owned(path):
        with suppress(OSError):  # Not every file system has modes.
            path.chmod(DIRECTORY_MODE)
    if is_open_to_others(path):
        log.warning("directory.not_private", path=str(path), next="its files are made private nevertheless")


def private_file(path: Path) -> None:
    """Creates the file, or restricts an existing one to its owner. Raises OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    close_to_others(path)


def close_to_others(path: Path) -> None:
    """Restricts the file to its owner, if it exists."""
    with suppress(OSError):
        if is_open_to_others(path) and is_owned(path):
            path.chmod(FILE_MODE)


def is_open_to_others(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & OTHERS)


def is_owned(path: Path) -> bool:
    return path.stat().st_uid == os.geteuid()
