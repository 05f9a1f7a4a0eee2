"""A test that hangs, even in native code that holds the GIL, ends as one failed test, and the other tests are run."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = """\
import ctypes

import pytest


def lock_twice(library):
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def test_with_the_interpreter_held():
    lock_twice(ctypes.PyDLL(None))


def test_with_the_interpreter_free():
    lock_twice(ctypes.CDLL(None))


@pytest.mark.parametrize("number", range(10))
def test_another(number):
    pass
"""


def test_a_hang_ends_a_test_and_not_the_suite(tmp_path: Path) -> None:
    """Runs pytest as the tests are configured, with another timeout."""
    (tmp_path / "test_hanging.py").write_text(TESTS)
    options = [
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-q"),
        *("-n", "2", "--dist", "worksteal", "-o", "timeout=1", "-o", "faulthandler_timeout=2", str(tmp_path)),
    ]
    done = subprocess.run([sys.executable, "-m", "pytest", *options], capture_output=True, text=True, check=False)
    assert "2 failed, 10 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("crashed while running") >= 2


def test_a_hang_that_python_can_end_is_ended_first() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["timeout"] < options["faulthandler_timeout"]
