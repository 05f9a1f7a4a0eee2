from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.fuzz.target import Target, running_target


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Target]:
    async with running_target(tmp_path_factory.mktemp("fuzzed")) as target:
        yield target
        await target.assert_well()
