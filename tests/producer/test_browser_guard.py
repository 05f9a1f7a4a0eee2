"""A server without keys serves only programs and web pages of its machine. The attacks are real browser requests."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from producer.auth.keys import KeyRepository
from producer.http.edge.browser_guard import LocalNames
from shared.backends.embedded.backend import open_embedded
from tests.producer.api import COMPLETIONS, MODEL, Api, ask, embedded_api, running_api, settings_for_tests

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVIL = "https://evil.example"
OURS = "http://localhost:3000"
BODY = b'{"model": "simulated", "messages": [{"role": "user", "content": "seed=7"}]}'
FORM = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b--\r\n'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyless_api() -> AsyncIterator[Api]:
    async with embedded_api(no_auth_anywhere=False, no_auth_hosts="ignite.test") as api:
        yield api


@pytest.mark.parametrize(
    "attack",
    [
        {"content-type": "application/json", "origin": EVIL},
        {"content-type": "text/plain", "origin": EVIL},
        {"content-type": "application/x-www-form-urlencoded", "origin": EVIL},
        {"content-type": "multipart/form-data; boundary=b", "origin": EVIL},
        {"origin": EVIL},
        {"content-type": "text/plain", "origin": "null"},
        {"content-type": "application/json", "origin": "http://localhost.evil.example"},
        {"content-type": "application/json", "origin": "http://127.0.0.1.evil.example:8000"},
        {"content-type": "application/json", "host": "evil.example"},
        {"content-type": "application/json", "host": "127.0.0.1.evil.example:8000"},
        {"content-type": "application/json", "host": "evil.example", "origin": "http://evil.example"},
        {"content-type": "text/plain", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"content-type": "application/json", "x-forwarded-for": "203.0.113.7"},
        {"content-type": "application/json", "x-forwarded-for": "127.0.0.1, 203.0.113.7"},
    ],
    ids=str,
)
async def test_requests_of_foreign_web_pages_are_refused(keyless_api: Api, attack: dict[str, str]) -> None:
    asked = len(keyless_api.engine.asked)
    for path, body in ((COMPLETIONS, BODY), ("/v1/files", FORM), ("/v1/batches", b"{}")):
        answer = await keyless_api.call("POST", path, data=body, headers=attack, skip_auto_headers=("content-type",))
        assert (answer.status, answer.error["type"]) == (403, "permission_error")
        assert "access-control-allow-origin" not in answer.headers
    assert len(keyless_api.engine.asked) == asked


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/metrics", "/healthz", "/openapi.json", "/nowhere"])
async def test_foreign_web_pages_cannot_read_answers(keyless_api: Api, path: str) -> None:
    for attack in ({"origin": EVIL}, {"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = await keyless_api.get(path, **attack)
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", [EVIL, "null"])
async def test_a_preflight_of_another_site_is_refused(keyless_api: Api, origin: str) -> None:
    asking = {"origin": origin, "access-control-request-method": "POST"}
    answer = await keyless_api.call("OPTIONS", COMPLETIONS, headers=asking)
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_a_page_of_this_machine_must_send_json(keyless_api: Api, content_type: str | None) -> None:
    headers = {"origin": OURS} | ({} if content_type is None else {"content-type": content_type})
    for path in (COMPLETIONS, "/v1/batches"):
        answer = await keyless_api.call("POST", path, data=BODY, headers=headers, skip_auto_headers=("content-type",))
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


async def test_pages_of_this_machine_are_served(keyless_api: Api) -> None:
    for origin in (OURS, "http://127.0.0.1:8000", "http://[::1]:5173", "https://app.localhost", "http://ignite.test"):
        answer = await keyless_api.post(ask(), origin=origin)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
        asking = {"origin": origin, "access-control-request-method": "POST"}
        preflight = await keyless_api.call("OPTIONS", COMPLETIONS, headers=asking)
        assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (200, origin)
    job = await keyless_api.submit(ask(), origin=OURS)
    assert (await keyless_api.call("POST", f"/v1/jobs/{job}/cancel", headers={"origin": OURS})).status == 200


async def test_programs_and_followed_links_are_served(keyless_api: Api) -> None:
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "ignite.test:80"):
        assert (await keyless_api.get("/v1/models", host=host)).status == 200
    untyped = await keyless_api.call("POST", COMPLETIONS, data=BODY, skip_auto_headers=("content-type",))
    assert untyped.status == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await keyless_api.get("/docs", **link)).status == 200
    assert (await keyless_api.get("/docs", **link | {"sec-fetch-dest": "iframe"})).status == 403
    assert (await keyless_api.get("/v1/models", **{"x-forwarded-for": "127.0.0.1"})).status == 200


async def test_with_keys_every_page_and_name_is_served() -> None:
    key = {"authorization": "Bearer secret-of-alice-4711"}
    async with embedded_api(api_keys="alice=secret-of-alice-4711") as api:
        answer = await api.get("/v1/models", origin=EVIL, host="evil.example", **key)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize("host", ["localhost@evil.example", "", "[", "127.1", "0x7f000001", "localhost:x", "a b", "ü"])
async def test_an_invalid_host_is_refused(host: str) -> None:
    assert not LocalNames((), any_address=True).takes_host(host)


async def test_an_address_as_host_is_accepted_off_loopback() -> None:
    assert LocalNames((), any_address=True).takes_host("10.0.0.7:8000")
    assert not LocalNames((), any_address=False).takes_host("10.0.0.7:8000")


async def test_an_empty_store_does_not_switch_keys_off() -> None:
    """Keys are stored, the store loses them, and the server restarts on loopback."""
    settings = settings_for_tests(no_auth=None, models=MODEL)
    async with open_embedded(None) as backend:
        book = KeyRepository(backend.documents)
        _, key = await book.create("alice")
        await book.revoke(key.id)
        for document in await backend.documents.list("keyed", "", limit=9):
            await backend.documents.delete(document)
        async with running_api(backend, settings, worker=False) as api:
            assert (await api.get("/v1/models")).status == 401
            assert (await api.get("/v1/models", authorization="Bearer any")).status == 401
