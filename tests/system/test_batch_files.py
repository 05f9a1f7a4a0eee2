"""`ignite batch run` refuses unusable files with one sentence, before it sends or changes anything."""

import errno
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ignite.commands.batch_files import BatchFiles, RunState, Unusable, Workspace, opened, part_of, resolve_link
from tests.support.batches import jsonl, line
from tests.support.command import ignite


@pytest.fixture
async def requests() -> AsyncGenerator[tuple[str, list[str]]]:
    """The address of a server, and the requests that it received."""
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.path}")
        return web.json_response({"error": {"message": "no such thing"}}, status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl([line(0)]))
    return path


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """All names in the directory, with the contents of files."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in directory.iterdir()}


def symlinked(source: Path) -> list[str]:
    link = source.with_name("link")
    link.symlink_to(source)
    return ["-o", str(link)]


def hard_linked(source: Path) -> list[str]:
    link = source.with_name("hard")
    os.link(source, link)
    return ["-o", str(link)]


def through_a_directory(source: Path) -> list[str]:
    (source.parent / "x").mkdir()
    return ["-o", str(source.parent / "x" / ".." / source.name)]


def with_old_output(source: Path, *options: str) -> list[str]:
    output = source.with_name("out")
    output.write_text("precious")
    return ["-o", str(output), *options]


def write_protected(source: Path) -> list[str]:
    options = with_old_output(source)
    source.with_name("out").chmod(0o400)
    return options


def in_a_locked_directory(source: Path) -> list[str]:
    directory = source.parent / "locked"
    directory.mkdir(mode=0o500)
    return ["-o", str(directory / "out")]


def with_a_foreign_state_file(source: Path) -> list[str]:
    source.with_name("out.batch").write_text("a diary")
    return ["-o", str(source.with_name("out"))]


def with_a_foreign_part(source: Path) -> list[str]:
    source.with_name("out.part").write_text("a diary")
    return ["-o", str(source.with_name("out"))]


def a_pipe(source: Path) -> list[str]:
    os.mkfifo(source.with_name("pipe"))
    return ["-o", str(source.with_name("pipe"))]


CASES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "the input": (lambda source: ["-o", str(source)], "both"),
    "the input by a link": (symlinked, "both"),
    "the input by a hard link": (hard_linked, "both"),
    "the input by another path": (through_a_directory, "both"),
    "the input for errors": (
        lambda source: ["-o", str(source.with_name("out")), "--errors", str(source)],
        "both",
    ),
    "one file for both": (
        lambda source: ["-o", str(source.with_name("out")), "--errors", str(source.with_name("out"))],
        "both",
    ),
    "the state file for errors": (
        lambda source: ["-o", str(source.with_name("out")), "--errors", str(source.with_name("out.batch"))],
        "both",
    ),
    "no directory": (lambda source: ["-o", str(source.parent / "no" / "out")], "does not exist"),
    "no directory for errors": (
        lambda source: ["-o", str(source.with_name("out")), "--errors", str(source.parent / "no" / "errors")],
        "does not exist",
    ),
    "a directory": (lambda source: ["-o", str(source.parent)], "is a directory"),
    "a directory beneath a file": (lambda source: ["-o", str(source / "out")], "does not exist"),
    "standard output": (lambda _: ["-o", "-"], "standard output"),
    "a device": (lambda _: ["-o", "/dev/null"], "not a regular file"),
    "a pipe": (a_pipe, "not a regular file"),
    "a directory without write permission": (lambda _: ["-o", "/proc/out"], "cannot be written"),
    "a foreign state file": (with_a_foreign_state_file, "is not the state"),
    "a foreign part": (with_a_foreign_part, "belongs to no known batch"),
}
UNLESS_ROOT: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a locked directory": (in_a_locked_directory, "cannot be written"),
    "a write-protected file": (write_protected, "write-protected"),
}


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("case", [*CASES, *UNLESS_ROOT])
async def test_files_are_checked_before_anything_is_sent(
    requests: tuple[str, list[str]], source: Path, case: str, again: bool
) -> None:
    if case in UNLESS_ROOT and os.geteuid() == 0:
        pytest.skip("root can write everywhere")
    prepare, says = (CASES | UNLESS_ROOT)[case]
    options = prepare(source)
    before = snapshot(source.parent)
    url, seen = requests

    said = await ignite("batch", "--url", url, "run", str(source), *options, *["--again"] * again, status=1)

    (sentence,) = [each for each in said.output.splitlines() if each]
    assert says in sentence
    assert not seen
    assert snapshot(source.parent) == before


async def test_a_refused_run_leaves_no_file(requests: tuple[str, list[str]], source: Path) -> None:
    url, seen = requests
    options = with_old_output(source, "--again")
    before = snapshot(source.parent)
    said = await ignite("batch", "--url", url, "run", str(source), *options, status=1)
    assert "no such thing" in said.output and seen == ["POST /v1/files"]
    assert snapshot(source.parent) == before


def files_for(source: Path) -> BatchFiles:
    return BatchFiles(source, source.with_name("out"), source.with_name("out.errors"))


def test_two_runs_cannot_write_the_same_output(source: Path) -> None:
    files = files_for(source)
    with opened(files, None, "24h", replaces=False) as first:
        state = first.state
        with (
            pytest.raises(Unusable, match="another 'ignite batch run'"),
            opened(files, state, "24h", replaces=False),
        ):
            pass
        assert RunState.read(files.state) == state


def test_a_file_that_was_created_meanwhile_is_not_replaced(source: Path) -> None:
    files = files_for(source)
    with opened(files, None, "24h", replaces=False) as workspace:
        workspace.add(files.output, b"answers\n")
        files.output.write_text("somebody's")
        with pytest.raises(Unusable, match="was created meanwhile"):
            workspace.publish()
    assert files.output.read_text() == "somebody's"
    assert part_of(files.output).read_text() == "answers\n"


def test_a_run_that_was_killed_while_renaming_renames_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_for(source)
    with opened(files, None, "24h", replaces=False) as workspace:
        for path in files.results:
            workspace.add(path, b"some\n")
        monkeypatch.setattr(Workspace, "discard", lambda _: None)
        workspace.publish()
    monkeypatch.undo()
    with opened(files, RunState.read(files.state), "24h", replaces=False) as workspace:
        assert workspace.size_of(files.output) == 0, "to be fetched again"
        workspace.add(files.output, b"some\n")
        workspace.publish()
    assert sorted(snapshot(source.parent)) == ["in.jsonl", "out"]


class FullDisk:
    """Accepts `room` bytes, then fails as a full disk does."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: memoryview) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self._file.write(data[: self._room])
        self._room -= taken
        return taken


def test_a_full_disk_is_reported_and_the_written_bytes_count(source: Path) -> None:
    files = files_for(source)
    with opened(files, None, "24h", replaces=False) as workspace:
        parts = {path: FullDisk(part, 5) for path, part in workspace._parts.items()}
        full: Any = Workspace(files, workspace.state, parts)  # pyright: ignore[reportArgumentType]
        with pytest.raises(Unusable, match="No space left on device"):
            full.add(files.output, b"0123456789")
        assert workspace.size_of(files.output) == 5


def test_a_symbolic_link_is_kept(source: Path) -> None:
    target, link = source.with_name("target"), source.with_name("link")
    link.symlink_to(target)
    files = BatchFiles(source, resolve_link(link), source.with_name("errors"))
    with opened(files, None, "24h", replaces=False) as workspace:
        workspace.add(files.output, b"some\n")
        workspace.publish()
    assert link.is_symlink() and target.read_text() == "some\n"
