"""The files of `ignite batch run`: its input, what it writes, and the note by which the next try goes on.

Every file is checked before anything is sent. Answers are written to `OUTPUT.part`, which is renamed at the end, so a
file that is there already is replaced only by a finished one. `OUTPUT.batch` says which batch the answers belong to.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from io import FileIO
from itertools import combinations
from pathlib import Path

import click

LEAST_FREE = 1024 * 1024
"""Bytes that must be free where answers are written."""


class Unusable(click.ClickException):
    """A file that cannot be used, in one sentence."""


@dataclass(frozen=True, slots=True)
class BatchFiles:
    source: Path
    output: Path
    errors: Path

    @property
    def note(self) -> Path:
        return beside(self.output, "batch")

    @property
    def results(self) -> tuple[Path, Path]:
        return self.output, self.errors

    @property
    def named(self) -> Mapping[str, Path]:
        """Every file that a run reads or writes, by what it is for."""
        return {
            "the input": self.source,
            "the output": self.output,
            "the file of failed lines": self.errors,
            "the note of the unfinished batch": self.note,
            "the unfinished output": part_of(self.output),
            "the unfinished file of failed lines": part_of(self.errors),
        }


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def part_of(path: Path) -> Path:
    return beside(path, "part")


def behind_links(path: Path) -> Path:
    """Where a link leads: renaming a file onto the link would replace the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@dataclass(frozen=True, slots=True)
class Note:
    """An unfinished run: the input it was made of (`size`, `modified`), and how far it has come. `file` and `batch` are
    ids, empty until the API has told them; `key` is the batch's idempotency key; `replaces` says whether results that
    are there already are replaced.
    """

    batch: str
    size: int
    modified: float
    key: str = ""
    file: str = ""
    window: str = ""
    replaces: bool = True

    @classmethod
    def read(cls, path: Path) -> Note | None:
        try:
            note = cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unusable(f"{path} cannot be read: {error.strerror}.") from None
        except (ValueError, TypeError):
            raise Unusable(
                f"{path} is in the way: it is no note of an unfinished batch. Move it away, or choose another output."
            ) from None
        return note

    @classmethod
    def of(cls, source: Path, window: str, *, replaces: bool) -> Note:
        found = source.stat()
        return cls("", found.st_size, found.st_mtime, secrets.token_hex(16), window=window, replaces=replaces)

    def is_of(self, source: Path) -> bool:
        found = source.stat()
        return (self.size, self.modified) == (found.st_size, found.st_mtime)

    def write(self, path: Path) -> None:
        """Whole or not at all. Raises OSError."""
        begun = beside(path, f"{os.getpid()}.part")
        try:
            begun.write_text(json.dumps(asdict(self)))
            begun.replace(path)
        finally:
            begun.unlink(missing_ok=True)


def unfinished(files: BatchFiles, *, again: bool) -> Note | None:
    """The run to go on with; None for a new one. Changes nothing. Raises Unusable where a file cannot be used."""
    require_usable(files)
    note = Note.read(files.note)
    if note is None:
        require_nothing_in_the_way(files, again=again)
        return None
    if again:
        return None
    if not note.is_of(files.source):
        raise Unusable(f"{files.source} has changed since {note.batch or 'its batch'} began: begin with --again.")
    return note


def require_usable(files: BatchFiles) -> None:
    require_readable(files.source)
    for (one, path), (other, same) in combinations(files.named.items(), 2):
        if is_same(path, same):
            raise Unusable(f"{path} would be {one} and {other} at once: choose another name.")
    for path in files.results:
        require_writable(path)


def require_readable(path: Path) -> None:
    if not path.is_file():
        raise Unusable(f"{path} is no regular file: the input is read more than once, so save it as a file first.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}.") from None


def require_writable(path: Path) -> None:
    """As far as can be told without writing."""
    if path.name == "-":
        raise Unusable("Answers cannot go to standard output: a run that was broken off goes on in its output file.")
    if path.is_dir():
        raise Unusable(f"{path} is a directory: name a file.")
    if path.exists() and not path.is_file():
        raise Unusable(f"{path} is no regular file: a run that was broken off goes on in its output, so name a file.")
    if path.exists() and not os.access(path, os.W_OK):
        raise Unusable(f"{path} is write-protected.")
    directory = path.parent
    if not directory.is_dir():
        raise Unusable(f"{path} cannot be written: the directory {directory} does not exist.")
    if shutil.disk_usage(directory).free < LEAST_FREE:
        raise Unusable(f"{path} cannot be written: less than {LEAST_FREE:,} bytes are free in {directory}.")


def is_same(one: Path, other: Path) -> bool:
    """Also by another name: a link, a hard link, a path with dots in it."""
    try:
        return one.samefile(other)
    except OSError:  # One of them is not there yet.
        return os.path.realpath(one) == os.path.realpath(other)


def require_nothing_in_the_way(files: BatchFiles, *, again: bool) -> None:
    for path in map(part_of, files.results):
        if os.path.lexists(path):
            raise Unusable(f"{path} is in the way, and no batch is known to have begun it: move it away.")
    for path in () if again else files.results:
        if path.exists():
            raise Unusable(f"{path} is there already: choose another name, or replace it with --again.")


class Workspace:
    """The files of a run that has begun, open and locked."""

    def __init__(self, files: BatchFiles, note: Note, parts: Mapping[Path, FileIO]) -> None:
        self.files = files
        self.note = note
        self._parts = parts

    def keep(self, note: Note) -> None:
        self.note = note
        try:
            note.write(self.files.note)
        except OSError as error:
            raise Unusable(f"{self.files.note} cannot be written: {error.strerror}.") from None

    def size_of(self, path: Path) -> int:
        return os.fstat(self._parts[path].fileno()).st_size

    def add(self, path: Path, data: bytes) -> None:
        """Raises Unusable, having written a part of it or nothing: the size tells how much."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._parts[path].write(left) :]
        except OSError as error:
            raise Unusable(
                f"{part_of(path)} cannot be written: {error.strerror}. "
                "The batch goes on; the same command fetches the rest of its answers."
            ) from None

    def forget(self) -> None:
        """Results that were there before stay as they are."""
        for path in map(part_of, self.files.results):
            path.unlink(missing_ok=True)
        self.files.note.unlink(missing_ok=True)

    def publish(self) -> None:
        """Rename what has come. A process that ends in the middle of this does it again when it goes on."""
        filled = [path for path in self.files.results if self.size_of(path)]
        if filled:
            self._replace(filled)
        self.forget()

    def _replace(self, filled: Sequence[Path]) -> None:
        for path in filled:
            if path.exists() and not self.note.replaces:
                raise Unusable(f"{path} has appeared meanwhile and was left alone: the answers are in {part_of(path)}.")
        self.keep(replace(self.note, replaces=True))
        for path in self.files.results:
            try:
                if path in filled:
                    part_of(path).replace(path)
                else:
                    path.unlink(missing_ok=True)  # It belongs to the results that have just been replaced.
            except OSError as error:
                raise Unusable(f"{path} cannot be replaced: {error.strerror}. See {part_of(path)}.") from None


@contextmanager
def opened(files: BatchFiles, note: Note | None, window: str, *, replaces: bool) -> Generator[Workspace]:
    """The files of the run that `note` tells of, or of a new one. Raises Unusable, having changed nothing."""
    with ExitStack() as stack:
        try:
            parts = {path: stack.enter_context(open_part(path)) for path in files.results}
            workspace = Workspace(files, note or Note.of(files.source, window, replaces=replaces), parts)
            if note is None:
                workspace.keep(workspace.note)
                for part in parts.values():
                    part.truncate(0)  # What an unfinished run has left, which is to be forgotten.
        except Unusable:
            remove_empty(files)
            raise
        yield workspace


def open_part(path: Path) -> FileIO:
    """For adding to, by this process alone."""
    part = part_of(path)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error.strerror} ({part}).") from None
    file = FileIO(descriptor, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise Unusable(f"{part} is being written by another 'ignite batch run'.") from None
    return file


def remove_empty(files: BatchFiles) -> None:
    """Parts that were made just now, where no run knows of them."""
    if not files.note.exists():
        for part in map(part_of, files.results):
            if part.is_file() and not part.stat().st_size:
                part.unlink()
