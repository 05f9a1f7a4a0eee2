"""These tests need vLLM: `make test-vllm` installs it and runs them, and `--vllm-url` names one that runs already."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, running_cluster
from tests.vllm.server import MISSING, Vllm, is_installed, make_models
from worker.engines.base import Engine
from worker.engines.open_engine import EngineSettings, open_engine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--vllm-url", help="address of a vLLM that runs, up to and including /v1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("vllm")
            item.add_marker(pytest.mark.timeout(1800))


def given_url(config: pytest.Config) -> str | None:
    return config.getoption("--vllm-url", default=None)


@pytest.fixture(autouse=True, scope="session")
def vllm_wanted(request: pytest.FixtureRequest) -> None:
    """`make test` leaves these tests out: they take vLLM, and a quarter of an hour."""
    if "vllm" not in str(request.config.getoption("-m")) or not (given_url(request.config) or is_installed()):
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest, vllm_wanted: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given_url(request.config):
        pytest.skip("it needs a vLLM of its own")
    directory = tmp_path_factory.mktemp("models")
    make_models(directory)
    return directory


def served(request: pytest.FixtureRequest, template: str, *arguments: str) -> Iterator[Vllm]:
    """One server for the whole run."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        if url := given_url(request.config):
            server = Vllm(url)
            server.model = runner.run(server.models())[0]["id"]
            yield server
            return
        models: Path = request.getfixturevalue("models")
        server = runner.run(Vllm.start(models / template, models, *arguments))
        yield server
        runner.run(server.close())


@pytest.fixture(scope="session")
def plain(request: pytest.FixtureRequest, vllm_wanted: None) -> Iterator[Vllm]:
    """With the usual scheduling: first come, first served."""
    yield from served(request, "plain")


@pytest.fixture(scope="session")
def trimming(request: pytest.FixtureRequest, vllm_wanted: None) -> Iterator[Vllm]:
    """Its template cuts off blanks. It schedules by priority, two sequences at a time."""
    yield from served(request, "trimming", "--scheduling-policy", "priority", "--max-num-seqs", "2")


@pytest.fixture
def settings(plain: Vllm) -> EngineSettings:
    """Of the engine that the contract suite tests."""
    return EngineSettings("openai", url=plain.url, model=plain.model, concurrency=4)


@pytest.fixture
async def engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    engine = open_engine(settings)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
async def cluster(amqp_url: str, redis_url: str) -> AsyncGenerator[Cluster]:
    async with running_cluster(amqp_url, redis_url) as cluster:
        yield cluster
