"""Keys open for their tenant, and nothing else does."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from producer.auth import ANYONE, Keyring
from shared.errors import AuthenticationFailed

KEYS = {"secret-alice": "alice", "secret-bob": "bob", "secret-alice-2": "alice"}


@pytest.mark.parametrize(("key", "tenant"), KEYS.items())
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_is_its_tenant(key: str, tenant: str, scheme: str) -> None:
    assert Keyring(KEYS).tenant_of(f"{scheme} {key}") == tenant


@given(st.none() | st.text() | st.text().map("Bearer {}".format))
def test_nothing_else_opens(authorization: str | None) -> None:
    assume((authorization or "").partition(" ")[2].strip() not in KEYS)
    with pytest.raises(AuthenticationFailed):
        Keyring(KEYS).tenant_of(authorization)


@given(st.none() | st.text())
def test_without_keys_anyone_is_the_one_tenant(authorization: str | None) -> None:
    assert Keyring({}).tenant_of(authorization) == ANYONE
