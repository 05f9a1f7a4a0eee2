"""Documents: small, by kind, tenant and id, written only by who has read them."""

import asyncio
from dataclasses import replace

import pytest

from shared.ports import FLEET, Backend, Document, DocumentChanged
from tests.support.wait_until import wait_until

DAY = 86400.0


def a_document(id: str = "b-1", *, kind: str = "batch", tenant: str = "alice", value: bytes = b'{"n":1}') -> Document:
    return Document(kind, tenant, id, value=value)


async def put(backend: Backend, document: Document) -> Document:
    return await backend.documents.put(document, expires_in=DAY)


async def ids(backend: Backend, **options: object) -> list[str]:
    return [document.id for document in await backend.documents.list("batch", "alice", **options)]


async def test_what_was_written_is_read_elsewhere(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    written = await put(one, a_document())
    assert written == replace(a_document(), version=written.version)
    assert written.version > 0
    assert await other.documents.get("batch", "alice", "b-1") == written


async def test_kinds_and_tenants_are_apart(backend: Backend) -> None:
    await put(backend, a_document())
    for kind, tenant, id in (("file", "alice", "b-1"), ("batch", "bob", "b-1"), ("batch", FLEET, "b-1")):
        assert await backend.documents.get(kind, tenant, id) is None
        assert await backend.documents.list(kind, tenant) == []


async def test_only_who_has_read_the_last_version_may_write(replicas: tuple[Backend, Backend]) -> None:
    one, other = replicas
    first = await put(one, a_document())
    second = await put(other, replace(first, value=b'{"n":2}'))
    assert second.version > first.version
    for stale in (replace(first, value=b'{"n":3}'), replace(a_document(), value=b'{"n":3}')):
        with pytest.raises(DocumentChanged):
            await put(one, stale)
    with pytest.raises(DocumentChanged):
        await one.documents.delete(first)
    assert await one.documents.get("batch", "alice", "b-1") == second


async def test_a_put_may_be_repeated(backend: Backend) -> None:
    first = await put(backend, a_document())
    assert await put(backend, a_document()) == first
    second = await put(backend, replace(first, value=b'{"n":2}'))
    assert await put(backend, replace(first, value=b'{"n":2}')) == second


async def test_of_many_that_make_the_same_document_one_does(replicas: tuple[Backend, Backend]) -> None:
    makers = [a_document(value=b'{"n":%d}' % number) for number in range(20)]
    outcomes = await asyncio.gather(
        *(put(replicas[number % 2], document) for number, document in enumerate(makers)), return_exceptions=True
    )
    made = [outcome for outcome in outcomes if isinstance(outcome, Document)]
    assert len(made) == 1
    assert all(isinstance(outcome, Document | DocumentChanged) for outcome in outcomes)
    assert await replicas[0].documents.get("batch", "alice", "b-1") == made[0]


async def test_lists_are_pages_in_the_order_of_ids(backend: Backend) -> None:
    for number in (3, 1, 2, 5, 4):
        await put(backend, a_document(f"b-{number}"))
    assert await ids(backend) == ["b-5", "b-4", "b-3", "b-2", "b-1"]
    assert await ids(backend, limit=2) == ["b-5", "b-4"]
    assert await ids(backend, after="b-4", limit=2) == ["b-3", "b-2"]
    assert await ids(backend, after="b-2", oldest_first=True) == ["b-3", "b-4", "b-5"]
    assert await ids(backend, after="b-1") == []


async def test_a_deleted_document_is_gone_and_may_be_made_again(backend: Backend) -> None:
    first = await put(backend, a_document())
    assert await backend.documents.delete(first)
    assert not await backend.documents.delete(first)
    assert await backend.documents.get("batch", "alice", "b-1") is None
    assert await ids(backend) == []
    with pytest.raises(DocumentChanged):
        await put(backend, replace(first, value=b"{}"))
    again = await put(backend, a_document())
    assert again.version > first.version, "an older reader must not take it for the one it knew"


async def test_a_document_expires(backend: Backend) -> None:
    brief = await backend.documents.put(a_document("b-1"), expires_in=0.05)
    await put(backend, a_document("b-2"))
    await wait_until(lambda: is_gone(backend, brief))
    assert await ids(backend) == ["b-2"]
    assert await ids(backend, limit=1) == ["b-2"]
    again = await put(backend, a_document("b-1"))
    assert again.version > brief.version
    assert await ids(backend) == ["b-2", "b-1"]


async def is_gone(backend: Backend, document: Document) -> bool:
    return await backend.documents.get(document.kind, document.tenant, document.id) is None


async def test_a_write_prolongs_a_life(backend: Backend) -> None:
    """As a lease is held: an expired one could not be written under its version any more."""
    brief = await backend.documents.put(a_document("b-1"), expires_in=10.0)
    held = await backend.documents.put(replace(brief, value=b"{}"), expires_in=DAY)
    other = await backend.documents.put(a_document("b-2"), expires_in=0.05)
    await wait_until(lambda: is_gone(backend, other))
    assert await backend.documents.get("batch", "alice", "b-1") == held
