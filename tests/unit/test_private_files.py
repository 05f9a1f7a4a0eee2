"""What is kept on the disk is its owner's alone, also where it was there before with other modes."""

import os
import stat
from collections.abc import Generator
from pathlib import Path

import pytest

from producer.storage import open_storage
from shared.backends.embedded.backend import open_embedded, open_embedded_documents
from shared.errors import BackendUnavailable
from shared.settings import SettingsError, load_settings
from tests.producer.test_storage import KEY, pieces


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(directory: Path) -> dict[str, int]:
    return {path.name: mode(path) for path in directory.iterdir()}


@pytest.fixture(autouse=True)
def umask() -> Generator[None]:
    """As most machines have it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


async def test_a_new_data_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_embedded(data):
        assert mode(data) == 0o700
        assert set(modes(data).values()) == {0o600}
        assert "ignite.db-wal" in modes(data)


async def test_one_that_was_there_and_open_to_all(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_embedded(data):
        pass
    data.chmod(0o777)
    for path in data.iterdir():
        path.chmod(0o666)
    async with open_embedded(data):
        assert mode(data) == 0o700
        assert set(modes(data).values()) == {0o600}


@pytest.fixture
def open_directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


async def test_the_commands_for_keys_make_it_private_too(open_directory: Path) -> None:
    tmp_path = open_directory
    async with open_embedded_documents(tmp_path):
        assert (mode(tmp_path), mode(tmp_path / "ignite.db")) == (0o700, 0o600)


async def test_a_directory_that_is_for_other_things_keeps_its_mode(
    open_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = open_directory
    (tmp_path / "notes.txt").touch(0o644)
    async with open_embedded(tmp_path):
        found = modes(tmp_path)
    assert (mode(tmp_path), found.pop("notes.txt")) == (0o755, 0o644)
    assert set(found.values()) == {0o600}
    assert "directory.not_private" in capsys.readouterr().out


async def test_uploaded_files(tmp_path: Path) -> None:
    directory = tmp_path / "files"
    directory.mkdir(0o777)
    directory.chmod(0o777)
    storage = open_storage(load_settings({"files_dir": str(directory)}))
    await storage.put(KEY, pieces(b"mine"))
    assert mode(directory) == 0o700
    for path in directory.rglob("*"):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("directory", ["afile", "afile/below", "/proc/nowhere"])
def test_a_place_for_files_that_is_none_stops_the_start(tmp_path: Path, directory: str) -> None:
    (tmp_path / "afile").touch()
    with pytest.raises(SettingsError, match="files_dir"):
        open_storage(load_settings({"files_dir": str(tmp_path / directory)}))


async def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    with pytest.raises(BackendUnavailable, match="Not a directory"):
        async with open_embedded(tmp_path / "afile"):
            pass
