"""Keys open for their tenant, and nothing else does."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from producer.auth import keyring as auth_keyring
from producer.auth.keyring import FRESH, LOCAL_TENANT, Keyless, Keyring, Principal, RecentKeys, require_operator
from producer.auth.keys import FORM, KeyRepository, digest
from shared.backends.embedded.backend import open_embedded
from shared.errors import AuthenticationFailed, NotFound, PermissionDenied, unknown_model
from shared.limits import Limits
from shared.ports import Document, Documents

KEYS = {"secret-alice": "alice", "secret-bob": "bob", "secret-alice-2": "alice"}
WRONG = "sk-ignite-" + "x" * 43


class Watched:
    """Documents that count the questions."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self.asked = 0

    async def get(self, kind: str, tenant: str, id: str) -> Document | None:
        self.asked += 1
        return await self._documents.get(kind, tenant, id)

    async def list(self, kind: str, tenant: str, **options: Any) -> Any:
        self.asked += 1
        return await self._documents.list(kind, tenant, **options)


@asynccontextmanager
async def ring(
    keys: Mapping[str, str] = KEYS, keyless: Keyless = Keyless.NEVER
) -> AsyncIterator[tuple[Keyring, KeyRepository, Watched]]:
    async with open_embedded(None) as backend:
        watched = Watched(backend.documents)
        keyring = Keyring(keys, KeyRepository(watched), keyless)  # type: ignore[arg-type]
        yield keyring, KeyRepository(backend.documents), watched


@contextmanager
def passing_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A clock that only moves when it is told to."""
    now = [100.0]
    with monkeypatch.context() as patched:
        patched.setattr(auth_keyring.time, "monotonic", lambda: now[0])
        yield lambda seconds: now.__setitem__(0, now[0] + seconds)


async def refused(keyring: Keyring, key: str | None) -> bool:
    try:
        await keyring.principal_of(None if key is None else f"Bearer {key}")
    except AuthenticationFailed:
        return True
    return False


# ── keys of the settings ──


@pytest.mark.parametrize(("key", "tenant"), KEYS.items())
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_key_is_its_tenant(key: str, tenant: str, scheme: str) -> None:
    async with ring() as (keyring, _, watched):
        assert await keyring.principal_of(f"{scheme} {key}") == Principal(tenant)
    assert watched.asked == 0


@given(st.none() | st.text() | st.text().map("Bearer {}".format))
async def test_nothing_else_opens(authorization: str | None) -> None:
    assume((authorization or "").partition(" ")[2].strip() not in KEYS)
    keyring = Keyring(KEYS, KeyRepository(None), Keyless.ALWAYS)  # type: ignore[arg-type]
    with pytest.raises(AuthenticationFailed):
        await keyring.principal_of(authorization)


# ── no keys ──


@pytest.mark.parametrize("keyless", [Keyless.ALWAYS, Keyless.UNTIL_FIRST_KEY])
async def test_where_no_key_is_asked_for_anyone_is_the_one_tenant(keyless: Keyless) -> None:
    async with ring({}, keyless) as (keyring, _, _):
        for authorization in (None, "", "Bearer none", f"Bearer {WRONG}"):
            principal = await keyring.principal_of(authorization)
            assert (principal.tenant, principal.operator) == (LOCAL_TENANT, True)


async def test_that_there_are_no_keys_opens_nothing() -> None:
    async with ring({}) as (keyring, _, _):
        assert await refused(keyring, None)
        assert await refused(keyring, "none")


async def test_keys_of_the_settings_come_before_what_is_served_without() -> None:
    async with ring(KEYS, Keyless.ALWAYS) as (keyring, _, _):
        assert await refused(keyring, None)


async def test_no_key_changes_what_the_settings_say() -> None:
    async with ring({}, Keyless.ALWAYS) as (keyring, book, watched):
        secret, _ = await book.create("alice")
        assert not await refused(keyring, None)
        assert watched.asked == 0
        assert (await keyring.principal_of(f"Bearer {secret}")).tenant == "alice"


async def test_the_first_key_closes_the_door_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ring({}, Keyless.UNTIL_FIRST_KEY) as (keyring, book, watched):
        with passing_time(monkeypatch) as wait:
            assert not await refused(keyring, None)
            secret, key = await book.create("alice")
            assert (await keyring.principal_of(f"Bearer {secret}")).tenant == "alice"
            wait(FRESH)
            assert await refused(keyring, None)
            await book.revoke(key.id)
            wait(FRESH)
            assert await refused(keyring, None)
            assert await refused(keyring, secret)
        started_again = Keyring({}, KeyRepository(watched), Keyless.UNTIL_FIRST_KEY)  # type: ignore[arg-type]
        assert await refused(started_again, None)


# ── stored keys ──


async def test_a_stored_key_brings_what_it_allows() -> None:
    async with ring() as (keyring, book, _):
        limits = Limits(60, 10_000, 4, models=("a", "b"))
        secret, key = await book.create("ci", tenant="alice", limits=limits, weight=2, operator=True)
        assert FORM.fullmatch(secret)
        assert await keyring.principal_of(f"Bearer {secret}") == Principal(
            "alice", key.id, limits, weight=2, operator=True
        )


async def test_the_store_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ring() as (keyring, book, watched):
        secret, _ = await book.create("alice")
        with passing_time(monkeypatch) as wait:
            for _ in range(100):
                assert not await refused(keyring, secret)
                assert await refused(keyring, WRONG)
            assert watched.asked == 2
            await book.revoke("alice")
            wait(FRESH)
            assert await refused(keyring, secret)
            assert watched.asked == 3


async def test_what_does_not_look_like_a_key_is_not_looked_up() -> None:
    async with ring() as (keyring, _, watched):
        for key in (WRONG[:-1], WRONG + "x", WRONG.upper(), "sk-proj-" + "x" * 43, "\x00", "ü" * 43):
            assert await refused(keyring, key)
    assert watched.asked == 0


async def test_a_flood_of_wrong_keys_pushes_the_right_ones_not_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_keyring, "REMEMBERED", 10)
    async with ring() as (_, book, watched):
        recent = RecentKeys(KeyRepository(watched))  # type: ignore[arg-type]
        secret, key = await book.create("alice")
        assert await recent.find(digest(secret)) == key
        for number in range(50):
            assert await recent.find(digest(str(number))) is None
        asked = watched.asked
        assert await recent.find(digest(secret)) == key
        assert await recent.find(digest("49")) is None
        assert watched.asked == asked


def test_models_and_operators() -> None:
    Principal("alice").require_model("any", "any")
    Principal("alice", limits=Limits(models=("a",))).require_model("a", "alias")
    with pytest.raises(NotFound) as denied:
        Principal("alice", limits=Limits(models=("a",))).require_model("b", "alias of b")
    assert (denied.value.param, denied.value.code) == ("model", "model_not_found")
    assert denied.value.message == unknown_model("alias of b").message
    require_operator(Principal("alice", operator=True))
    with pytest.raises(PermissionDenied):
        require_operator(Principal("alice"))
