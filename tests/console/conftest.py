"""An `ignite up` of its own for each module, and a browser that looks at it."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.console.browser import Browser, chromium
from tests.support import gated
from tests.support.npm import installed
from tests.support.run_process import run_ignite

REFUSED = re.compile(r"status of 4\d\d ")
"""Chromium prints a line for every answer of 400 and more; the pages show those themselves."""

READY = r"ignite is ready: (http://\S+)/v1 .* console (http://\S+)/console"


@dataclass(frozen=True)
class Keys:
    operator: str
    tenant: str


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def keys(data: Path) -> Keys:
    return Keys(operator=create_key(data, "ops", "--operator"), tenant=create_key(data, "alice"))


def create_key(data: Path, name: str, *options: str) -> str:
    command = [sys.executable, "-m", "ignite", "keys", "--data-dir", str(data), "create", "--name", name, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(data: Path, keys: Keys) -> AsyncIterator[str]:
    """A server that asks for keys, with the simulated engine."""
    arguments = ("up", "--port", "0", "--data-dir", str(data), "--engine", "simulated")
    async with run_ignite(*arguments, module=gated.MODULE) as process:
        found = await process.wait_for(READY)
        assert found[1] == found[2]
        yield found[1]


@pytest.fixture(scope="module")
def window(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(url, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(window: Browser, url: str) -> Iterator[Browser]:
    """A tab of its own. What its pages print, and which servers they ask, is checked at the test's end."""
    with window.tab() as browser:
        browser.resize(1280)
        yield browser
        assert not [line for line in browser.problems() if not REFUSED.search(line)]
        assert not [each for each in browser.asked() if each.startswith("http") and not each.startswith(f"{url}/")]


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    """axe-core's source."""
    project = installed(request.config, "axe-core", Path(__file__).parent / "node")
    return (project / "node_modules/axe-core/axe.min.js").read_text()
