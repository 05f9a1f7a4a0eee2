"""The files of `ignite batch run`: its input, its results, and a state file by which the command resumes.

Every file is checked before anything is sent. Answers are written to `OUTPUT.part`, which is renamed at the end, so
only complete results replace an existing file. `OUTPUT.batch` names the batch that the answers belong to.
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
    """A file cannot be used. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class BatchFiles:
    source: Path
    output: Path
    errors: Path

    @property
    def state(self) -> Path:
        return with_suffix(self.output, "batch")

    @property
    def results(self) -> tuple[Path, Path]:
        return self.output, self.errors

    @property
    def named(self) -> Mapping[str, Path]:
        """All files that a run reads or writes, by their purpose."""
        return {
            "the input": self.source,
            "the output": self.output,
            "the file of failed lines": self.errors,
            "the state file of the unfinished batch": self.state,
            "the unfinished output": part_of(self.output),
            "the unfinished file of failed lines": part_of(self.errors),
        }


def with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def part_of(path: Path) -> Path:
    return with_suffix(path, "part")


def resolve_link(path: Path) -> Path:
    """Returns the target of a symbolic link: renaming a file to the link's path would replace the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@dataclass(frozen=True, slots=True)
class RunState:
    """An unfinished run. `size`, `modified`: of its input. `file`, `batch`: ids, empty until the API has returned them.
    `key`: the batch's idempotency key. `replaces`: whether the run replaces existing results.
    """

    batch: str
    size: int
    modified: float
    key: str = ""
    file: str = ""
    window: str = ""
    replaces: bool = True

    @classmethod
    def read(cls, path: Path) -> RunState | None:
        try:
            state = cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unusable(f"{path} cannot be read: {error.strerror}.") from None
        except (ValueError, TypeError):
            raise Unusable(
                f"{path} exists, but is not the state of an unfinished batch. Move it away, or choose another output."
            ) from None
        return state

    @classmethod
    def of(cls, source: Path, window: str, *, replaces: bool) -> RunState:
        found = source.stat()
        return cls("", found.st_size, found.st_mtime, secrets.token_hex(16), window=window, replaces=replaces)

    def is_of(self, source: Path) -> bool:
        found = source.stat()
        return (self.size, self.modified) == (found.st_size, found.st_mtime)

    def write(self, path: Path) -> None:
        """Writes the state atomically. Raises OSError."""
        temporary = with_suffix(path, f"{os.getpid()}.part")
        try:
            temporary.write_text(json.dumps(asdict(self)))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def unfinished(files: BatchFiles, *, again: bool) -> RunState | None:
    """Returns the run to resume, None for a new one. Changes no file. Raises Unusable."""
    require_usable(files)
    state = RunState.read(files.state)
    if state is None:
        require_no_results(files, again=again)
        return None
    if again:
        return None
    if not state.is_of(files.source):
        raise Unusable(f"{files.source} has changed since {state.batch or 'its batch'} began: start over with --again.")
    return state


def require_usable(files: BatchFiles) -> None:
    require_readable(files.source)
    for (one, path), (other, same) in combinations(files.named.items(), 2):
        if is_same(path, same):
            raise Unusable(f"{path} would be both {one} and {other}: choose another name.")
    for path in files.results:
        require_writable(path)


def require_readable(path: Path) -> None:
    if not path.is_file():
        raise Unusable(f"{path} is not a regular file: the input is read more than once, so save it as a file first.")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}.") from None


def require_writable(path: Path) -> None:
    """Raises Unusable if it is clear without writing that `path` cannot be written."""
    if path.name == "-":
        raise Unusable("Answers cannot go to standard output: an interrupted run is resumed from its output file.")
    if path.is_dir():
        raise Unusable(f"{path} is a directory: name a file.")
    if path.exists() and not path.is_file():
        raise Unusable(f"{path} is not a regular file: an interrupted run is resumed from its output, so name a file.")
    if path.exists() and not os.access(path, os.W_OK):
        raise Unusable(f"{path} is write-protected.")
    directory = path.parent
    if not directory.is_dir():
        raise Unusable(f"{path} cannot be written: the directory {directory} does not exist.")
    if shutil.disk_usage(directory).free < LEAST_FREE:
        raise Unusable(f"{path} cannot be written: less than {LEAST_FREE:,} bytes are free in {directory}.")


def is_same(one: Path, other: Path) -> bool:
    """Whether both paths name the same file, also through links or `..`."""
    try:
        return one.samefile(other)
    except OSError:  # One of them does not exist yet.
        return os.path.realpath(one) == os.path.realpath(other)


def require_no_results(files: BatchFiles, *, again: bool) -> None:
    for path in map(part_of, files.results):
        if os.path.lexists(path):
            raise Unusable(f"{path} exists, but belongs to no known batch: move it away.")
    for path in () if again else files.results:
        if path.exists():
            raise Unusable(f"{path} exists already: choose another name, or replace it with --again.")


class Workspace:
    """The open and locked files of a run."""

    def __init__(self, files: BatchFiles, state: RunState, parts: Mapping[Path, FileIO]) -> None:
        self.files = files
        self.state = state
        self._parts = parts

    def save(self, state: RunState) -> None:
        """Writes the run's state. Raises Unusable."""
        self.state = state
        try:
            state.write(self.files.state)
        except OSError as error:
            raise Unusable(f"{self.files.state} cannot be written: {error.strerror}.") from None

    def size_of(self, path: Path) -> int:
        return os.fstat(self._parts[path].fileno()).st_size

    def add(self, path: Path, data: bytes) -> None:
        """Appends to the unfinished file of `path`. Raises Unusable if not all data could be written; `size_of` then
        returns what was written.
        """
        left = memoryview(data)
        try:
            while left:
                left = left[self._parts[path].write(left) :]
        except OSError as error:
            raise Unusable(
                f"{part_of(path)} cannot be written: {error.strerror}. "
                "The batch runs on; the same command fetches the rest of its answers."
            ) from None

    def discard(self) -> None:
        """Deletes the run's unfinished files and its state. Earlier results stay."""
        for path in map(part_of, self.files.results):
            path.unlink(missing_ok=True)
        self.files.state.unlink(missing_ok=True)

    def publish(self) -> None:
        """Renames the unfinished files to the results. If it is interrupted, the next run repeats it."""
        filled = [path for path in self.files.results if self.size_of(path)]
        if filled:
            self._replace(filled)
        self.discard()

    def _replace(self, filled: Sequence[Path]) -> None:
        for path in filled:
            if path.exists() and not self.state.replaces:
                raise Unusable(f"{path} was created meanwhile and is not replaced: the answers are in {part_of(path)}.")
        self.save(replace(self.state, replaces=True))
        for path in self.files.results:
            try:
                if path in filled:
                    part_of(path).replace(path)
                else:
                    path.unlink(missing_ok=True)  # It belongs to the earlier results, which are replaced.
            except OSError as error:
                raise Unusable(f"{path} cannot be replaced: {error.strerror}. See {part_of(path)}.") from None


@contextmanager
def opened(files: BatchFiles, state: RunState | None, window: str, *, replaces: bool) -> Generator[Workspace]:
    """Opens the files of the run to resume, or of a new run if `state` is None. Raises Unusable, and then changes
    nothing.
    """
    with ExitStack() as stack:
        try:
            parts = {path: stack.enter_context(open_part(path)) for path in files.results}
            workspace = Workspace(files, state or RunState.of(files.source, window, replaces=replaces), parts)
            if state is None:
                workspace.save(workspace.state)
                for part in parts.values():
                    part.truncate(0)  # Drops the answers of an earlier, unfinished run.
        except Unusable:
            remove_empty(files)
            raise
        yield workspace


def open_part(path: Path) -> FileIO:
    """Opens and locks the unfinished file of `path` for appending. Raises Unusable."""
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
    """Removes unfinished files that were just created, unless a run uses them."""
    if not files.state.exists():
        for part in map(part_of, files.results):
            if part.is_file() and not part.stat().st_size:
                part.unlink()
