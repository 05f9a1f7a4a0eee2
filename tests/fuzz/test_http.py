"""Whatever bytes come over HTTP, they are answered or the connection ends, and the server stays as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.target import KEY, Target
from tests.support.fuzz import examples
from tests.support.http_bytes import Sent, connections

pytestmark = pytest.mark.asyncio(loop_scope="session")

MEANT = (501, 505)
"""What a client did that we do not: a transfer coding, a version of HTTP."""


async def assert_answered(target: Target, sent: Sent) -> None:
    statuses = await target.send(sent)
    assert all(status < 500 or status in MEANT for status in statuses), statuses
    await target.assert_well()


@examples(60)
@given(sent=connections(KEY))
async def test_requests_by_and_against_the_grammar(target: Target, sent: Sent) -> None:
    await assert_answered(target, sent)


@examples(15)
@given(data=st.binary(max_size=300))
async def test_any_bytes(target: Target, data: bytes) -> None:
    await assert_answered(target, Sent((data,)))
