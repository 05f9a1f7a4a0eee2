"""Stored keys, on every backend: found by their hash, listed, revoked; the key itself is nowhere."""

import pytest

from producer.auth.keys import KIND, KeyRepository, digest
from shared.errors import Conflict, InvalidRequest, NotFound
from shared.limits import Limits
from shared.ports import FLEET, Backend


async def test_a_key_is_found_by_its_hash_until_it_is_revoked(replicas: tuple[Backend, Backend]) -> None:
    one, other = (KeyRepository(replica.documents) for replica in replicas)
    assert not await one.any()
    secret, key = await one.create("alice", limits=Limits(models=("a",)))
    assert await other.any()
    assert await other.find(digest(secret)) == key
    assert await other.find(digest(secret + "x")) is None
    assert await other.revoke("alice") == key
    assert await one.find(digest(secret)) is None
    assert not await one.any()


async def test_the_key_itself_is_not_kept(backend: Backend) -> None:
    secret, key = await KeyRepository(backend.documents).create("alice")
    (document,) = await backend.documents.list(KIND, FLEET)
    for part in (secret, secret.removeprefix("sk-ignite-")):
        assert part not in f"{document} {key!r}"


async def test_two_keys_may_belong_to_one_tenant(backend: Backend) -> None:
    book = KeyRepository(backend.documents)
    (old, _), (new, second) = await book.create("alice"), await book.create("alice-2", tenant="alice")
    assert old != new
    assert second.tenant == "alice"
    await book.revoke("alice")
    assert [key async for key in book.all()] == [second]


async def test_a_key_is_revoked_by_its_name_or_its_id(backend: Backend) -> None:
    book = KeyRepository(backend.documents)
    for _ in range(2):
        _, key = await book.create("alice")
        assert await book.revoke(key.id) == key
        with pytest.raises(NotFound):
            await book.revoke(key.id)


async def test_names_are_given_once_and_are_plain(backend: Backend) -> None:
    book = KeyRepository(backend.documents)
    await book.create("alice")
    with pytest.raises(Conflict):
        await book.create("alice")
    for name in ("", " ", "-x", "a b", "a{b}", "x" * 65, "ü"):
        with pytest.raises(InvalidRequest) as refused:
            await book.create(name)
        assert refused.value.param == "name"
    with pytest.raises(InvalidRequest) as refused:
        await book.create("bob", tenant="a:b")
    assert refused.value.param == "tenant"


async def test_all_are_listed_however_many(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.auth.keys.PAGE", 2)
    book = KeyRepository(backend.documents)
    made = [(await book.create(f"key-{number}"))[1] for number in range(5)]
    assert sorted([key async for key in book.all()], key=lambda key: key.name) == made
