"""Packages of npm for a test: installed once, from a committed lock file, into pytest's cache."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import missing

INSTALL_TIMEOUT = 120


def installed(config: pytest.Config, name: str, source: Path) -> Path:
    """Returns a directory with the `node_modules` of `source`'s lock file. It is kept between runs and shared by
    processes.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        missing("npm")
    project = config.cache.mkdir(name) if config.cache else Path()
    with (project / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = (source / "package-lock.json").read_text()
        found = project / "package-lock.json"
        if not (project / "node_modules").is_dir() or not found.exists() or found.read_text() != wanted:
            shutil.copy(source / "package.json", project)
            shutil.copy(source / "package-lock.json", project)
            _install(npm, project)
    return project


def _install(npm: str, project: Path) -> None:
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
    if done.returncode:
        shutil.rmtree(project / "node_modules", ignore_errors=True)
        missing(f"npm (it could not install {project.name}: {done.stderr.strip()[-300:]})")
