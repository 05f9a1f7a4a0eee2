"""The memory of large objects is returned to the system."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import os
from ignite.running import release_large_memory
from tests.support.resident import resident

release_large_memory()
large = b"x" * 19_000_000
del large  # glibc would take what follows from its heap
pairs = [(b"x" * 19_000_000, b"x" * 100_000) for _ in range(20)]
before = resident(os.getpid())
kept = [small for _, small in pairs]
del pairs
print(before - resident(os.getpid()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc's malloc")
def test_the_memory_of_large_objects_returns_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 19 * 19_000_000
