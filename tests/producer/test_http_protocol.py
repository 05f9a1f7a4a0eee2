"""HTTP/1.1 of arbitrary clients, and refusals before the application."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from producer.http.connection import protocol
from tests.producer.api import COMPLETIONS, Api, ask, embedded_api, raw_post
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KB = 1024
H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    async with embedded_api(keepalive=0.05) as api:
        yield api


async def exchange(api: Api, *pieces: bytes, until_closed: bool = True) -> bytes:
    """Sends `pieces` in separate packets, and returns everything received."""
    async with asyncio.timeout(20):
        host, port = api.server.servers[0].sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            return await (reader.read() if until_closed else reader.readuntil(b"\r\n\r\n"))
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


def error_of(answer: bytes) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return json.loads(body)["error"]


# ── bounds of the head ──


@pytest.mark.parametrize("name", ["value", "name", "many"])
async def test_a_large_head_is_refused_before_it_is_read(api: Api, name: str) -> None:
    """The server reads only the bytes in flight of 8 MB, and closes."""
    filler = {"value": b"x-a: " + b"a" * 8192, "name": b"x" * 8192, "many": b"a:b\r\n" * 1600}[name]
    sent = 0
    async with asyncio.timeout(20), api.connected(GET + filler) as reader:
        writer = reader._transport  # type: ignore[attr-defined]
        while sent < 8 * KB * KB and not reader.at_eof():
            writer.write(b"a:b\r\n" * 1600 if name == "many" else b"a" * 8192)
            sent += 8192
            await asyncio.sleep(0)
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert error_of(answer)["code"] == "headers_too_large"


async def test_the_parser_never_sees_more_than_the_bound(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = api.server.servers[0].sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(host, port)
    (protocol,) = await wait_until(lambda: [each for each in api.server.server_state.connections if each.cycle is None])
    fed: list[int] = []

    class Counting:
        def feed_data(self, data: bytes) -> None:
            fed.append(len(data))
            real.feed_data(data)

    real, protocol.parser = protocol.parser, Counting()
    writer.write(GET + b"x-a: " + b"a" * 3_000_000)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert sum(fed) <= api.settings.head_limit


async def test_a_head_within_the_bounds_is_accepted(api: Api) -> None:
    padding = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 300) for number in range(200))
    for whole in ([GET + padding + b"\r\n"], [GET, padding, b"\r\n"]):
        assert (await exchange(api, *whole, until_closed=False)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"a" * 40_000, 414),
        (GET + b"a:b\r\n" * 300 + b"\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (GET + b"Host: y\r\n\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /healthz\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /healthz HTTP/1.1\nHost: x\n\n", 400),
        (GET + b"a: b\r\n c\r\n\r\n", 400),
        (GET + b"a : b\r\n\r\n", 400),
        (GET + b"a\x01: b\r\n\r\n", 400),
        (GET + b"a: b\x00\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    ],
    ids=lambda given: repr(given[:24]) if isinstance(given, bytes) else str(given),
)
async def test_refusals_are_answered_and_close_the_connection(api: Api, head: bytes, status: int) -> None:
    answer = await exchange(api, head)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert error_of(answer)["message"]


# ── bodies ──


def chunked(*chunks: bytes, path: str = COMPLETIONS, trailer: bytes = b"", extension: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return head + body + b"0\r\n" + trailer + b"\r\n"


BODY = json.dumps(ask()).encode()


async def test_a_body_of_tiny_chunks_is_accepted(api: Api) -> None:
    tiny = [bytes([byte]) for byte in BODY]
    assert (await exchange(api, chunked(*tiny))).startswith(b"HTTP/1.1 200")
    assert (await exchange(api, chunked(BODY, extension=b";a=b"))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", ["extension", "trailer"])
async def test_the_overhead_of_chunks_is_bounded(api: Api, kind: str) -> None:
    filler = b"a" * 1_000_000
    whole = (
        chunked(BODY[:5], extension=b";" + filler) if kind == "extension" else chunked(b"{", trailer=b"a: " + filler)
    )
    head, body = whole[:200], whole[200:]
    answer = await exchange(api, head, body)
    assert answer.startswith(b"HTTP/1.1 400")
    assert error_of(answer)["code"] == "invalid_http"


async def test_a_trailer_is_not_read_as_a_header(api: Api) -> None:
    """A trailer `Prefer: respond-async` must not create a background job."""
    answer = await exchange(api, chunked(BODY, trailer=b"Prefer: respond-async\r\nContent-Type: text/plain\r\n"))
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_refused_body_is_not_read_to_its_end(api: Api) -> None:
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**12}\r\n\r\n".encode()
    sent = 0
    async with asyncio.timeout(30), api.connected(head) as reader:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
        transport = reader._transport  # type: ignore[attr-defined]
        while not transport.is_closing() and sent < 200 * KB * KB:
            transport.write(bytes(256 * KB))
            sent += 256 * KB
            await wait_until(lambda: transport.is_closing() or not transport.get_write_buffer_size())
    assert sent < 100 * KB * KB


async def test_a_body_that_is_too_large_gets_no_100_continue(api: Api) -> None:
    size = api.settings.body_limit + 1
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n"
    answer = await exchange(api, head.encode())
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer
    assert answer.lower().count(b"connection: close") == 1


async def test_a_body_is_asked_for_by_100_continue(api: Api) -> None:
    head, body = raw_post(ask(), "Expect: 100-continue", "Connection: close").split(b"\r\n\r\n")
    async with asyncio.timeout(20), api.connected(head + b"\r\n\r\n") as reader:
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        reader._transport.write(body)  # type: ignore[attr-defined]
        assert (await reader.read()).startswith(b"HTTP/1.1 200")


async def test_without_a_key_there_is_no_100_continue() -> None:
    async with embedded_api(api_keys="alice=sk-alice-alice-0123456789") as api:
        answer = await exchange(api, raw_post(ask(), "Expect: 100-continue").split(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/files", "/v1/batches"])
async def test_a_half_sent_body_causes_no_crash(
    api: Api, path: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = "multipart/form-data; boundary=b" if path == "/v1/files" else "application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n--b".encode()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            async with api.connected(head):
                await wait_until(lambda: any(each.cycle for each in api.server.server_state.connections))
        await wait_until(lambda: not api.server.server_state.tasks, "the requests to end")
    assert "Traceback" not in caplog.text + "".join(capsys.readouterr())
    assert "ClientDisconnect" not in caplog.text


async def test_compressed_bodies_are_refused(api: Api) -> None:
    answer = await api.call("POST", COMPLETIONS, data=b"x", headers={"content-encoding": "gzip"})
    assert (answer.status, answer.error["param"]) == (415, "Content-Encoding")


# ── upgrades that are not taken up ──


@pytest.mark.parametrize("packets", [1, 2, 20])
@pytest.mark.parametrize("coding", ["length", "chunked"])
async def test_an_offered_upgrade_is_ignored(api: Api, packets: int, coding: str) -> None:
    """The JDK's HttpClient sends an Upgrade with each POST, and so does `curl --http2`."""
    extra = "\r\n".join(H2C).encode() + b"\r\n"
    whole = raw_post(ask()) if coding == "length" else chunked(BODY).replace(b"Connection: close\r\n", b"")
    head, _, body = whole.partition(b"\r\n\r\n")
    whole = head + b"\r\n" + extra + b"\r\n" + body
    split = len(whole) - len(body)
    pieces = {1: [whole], 2: [whole[:split], whole[split:]]}.get(packets)
    step = -(-len(whole) // packets)
    pieces = pieces or [whole[at : at + step] for at in range(0, len(whole), step)]
    # The connection goes on as before: another such request, and a plain one.
    last = GET + b"Connection: close\r\n\r\n"
    answer = await exchange(api, *pieces, *pieces, last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b" t007 t008 t009") == 2


@pytest.mark.parametrize("offer", ["websocket", "h2c", "foo/2, bar"])
async def test_an_upgrade_on_a_get_is_ignored(api: Api, offer: str) -> None:
    request = GET + b"Connection: keep-alive, Upgrade\r\nUpgrade: " + offer.encode() + b"\r\n\r\n"
    answer = await exchange(api, request + request, GET + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 3


# ── methods, versions, targets ──


async def test_head_is_answered_on_every_get_route(api: Api) -> None:
    job = await api.submit(ask())
    await api.ended(job)
    for path in (
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/v1/models",
        "/v1/jobs",
        f"/v1/jobs/{job}",
        f"/v1/jobs/{job}/events",
        f"/v1/jobs/{job}/result",
        COMPLETIONS,
        "/v1/files",
        "/v1/batches",
    ):
        head, get = await api.call("HEAD", path), await api.get(path)
        assert (head.status, head.body) == (get.status, b""), path
        assert head.headers.get("content-type") == get.headers.get("content-type")
    assert (await api.call("HEAD", "/v1/nowhere")).status == 404


async def test_head_of_a_running_stream_ends_at_once(api: Api) -> None:
    job = await api.submit(ask("itl=50", max_tokens=10_000))
    try:
        async with asyncio.timeout(20):
            head = await api.call("HEAD", f"/v1/jobs/{job}/events")
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    finally:
        await api.call("POST", f"/v1/jobs/{job}/cancel")
    await api.ended(job)


@pytest.mark.parametrize("stream", [False, True])
async def test_http_1_0_gets_no_chunks(api: Api, stream: bool) -> None:
    """nginx uses HTTP/1.0 by default."""
    request = raw_post(ask(stream=stream), "Connection: close", "Accept-Encoding: gzip").replace(
        b"HTTP/1.1", b"HTTP/1.0"
    )
    head, _, body = (await exchange(api, request)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"transfer-encoding" not in head and b"content-encoding" not in head
    assert b"connection: close" in head
    assert body.startswith(b"data: {" if stream else b"{")
    assert body.endswith(b"data: [DONE]\n\n" if stream else b"}")


async def test_http_1_0_may_have_no_host_and_waits_for_no_100(api: Api) -> None:
    request = (
        raw_post(ask(), "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: ignite\r\n", b"")
    )
    assert (await exchange(api, request)).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://ignite/healthz", 200),
        ("http://ignite:80/v1/models?limit=1", 200),
        ("http://ignite", 404),
        ("http://ignite?a=b", 404),
        ("*", 404),
    ],
)
async def test_absolute_targets_are_paths(api: Api, target: str, status: int) -> None:
    head = await api.raw(f"GET {target} HTTP/1.1\r\nHost: ignite\r\n\r\n".encode())
    assert head.startswith(b"HTTP/1.1 %d" % status)


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("//v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/v1//models", "/v1/models"),
        ("/V1/Models", "/v1/models"),
        ("/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/jobs/chatcmpl-1/", "/v1/jobs/chatcmpl-1"),
    ],
)
async def test_an_almost_correct_path_is_answered_with_the_correct_one(api: Api, path: str, call: str) -> None:
    answer = await exchange(api, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404")
    assert error_of(answer)["message"].endswith(f" Call {call} instead.")


# ── several requests of one connection ──


async def test_stray_line_ends_and_pipelined_requests_are_served(api: Api) -> None:
    one, last = GET + b"\r\n", GET + b"Connection: close\r\n\r\n"
    assert (await exchange(api, b"\r\n\r\n", one + b"\r\n" + one * 20, last)).count(b"HTTP/1.1 200 OK") == 22


async def test_a_packet_with_the_ends_of_two_bodies_counts_as_no_overhead(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the first body in that packet counts for neither body."""
    monkeypatch.setattr(protocol, "OVERHEAD_LIMIT", 4096)
    first, last = raw_post(ask("word " * 2_000)), raw_post(ask("word " * 2_000), "Connection: close")
    answers = await exchange(api, first[:2000], first[2000:] + last[:2000], last[2000:])
    assert answers.count(b"HTTP/1.1 200") == 2, answers[:500]


async def test_pipelined_requests_are_limited(api: Api) -> None:
    answer = await exchange(api, raw_post(ask("ttft=100")) + (GET + b"\r\n") * 2000)
    assert answer.count(b"HTTP/1.1 200 OK") == 1


async def test_invalid_bytes_after_a_request_do_not_affect_its_answer(api: Api) -> None:
    for stream in (False, True):
        answer = await exchange(api, raw_post(ask("seed=7 ttft=100", stream=stream)), b"\x00\x01 rubbish\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"t009" in answer
        assert answer.endswith(b"0\r\n\r\n" if stream else b"}")


async def test_bodies_do_not_count_as_heads_of_the_next_request(api: Api) -> None:
    one = raw_post(ask("x" * 30_000))
    head, body = one[:200], one[200:]
    answer = await exchange(api, *[head, body] * 5, GET + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 6


async def test_a_post_without_a_body_is_answered(api: Api) -> None:
    for length in (b"", b"Content-Length: 0\r\n"):
        request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + length + b"\r\n"
        assert (await exchange(api, request)).startswith(b"HTTP/1.1 400")
