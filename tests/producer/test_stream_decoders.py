"""Keep-alive comments break no decoder."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import pytest_asyncio
from openai._streaming import SSEDecoder

from tests.producer.api import COMPLETIONS, Api, ask, embedded_api

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    async with embedded_api(keepalive=0.02) as api:
        yield api


def dispatching_on_every_blank_line(lines: Iterable[str]) -> list[Any]:
    """As openai-go decoded before its version 1.12: comments are skipped, but any blank line ends an event, and the
    data of each event but `[DONE]` is read as JSON.
    """
    events, data = list[Any](), ""
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            data += value.removeprefix(" ") + "\n" if name == "data" else ""
            continue
        if data.startswith("[DONE]"):
            return events
        events.append(json.loads(data))
        data = ""
    raise AssertionError("the stream has no [DONE]")


async def quiet(api: Api, way: str) -> str:
    """A stream whose engine generates nothing until two comments were sent."""
    api.engine.gate.clear()
    text = ""
    try:
        method, path, body = await call(api, way, ask("seed=7 itl=80"))
        async with api.http.request(method, path, json=body) as response:
            async for data in response.content.iter_any():
                text += data.decode()
                if text.count("\n: ") + text.startswith(": ") >= 2:
                    api.engine.gate.set()
    finally:
        api.engine.gate.set()
    return text


async def call(api: Api, way: str, body: dict[str, Any]) -> tuple[str, str, dict[str, Any] | None]:
    if way == "events":
        return "GET", f"/v1/jobs/{await api.submit(body)}/events", None
    return ("POST", f"{COMPLETIONS}/stream", body) if way == "route" else ("POST", COMPLETIONS, body | {"stream": True})


@pytest.mark.parametrize("way", ["stream", "route", "events"])
async def test_comments_are_not_events(api: Api, way: str) -> None:
    text = await asyncio.wait_for(quiet(api, way), 60)
    events = dispatching_on_every_blank_line(text.split("\n"))
    said = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    assert said == " t007 t008 t009"
    decoded = [event.data for event in SSEDecoder().iter_bytes(iter([text.encode()]))]
    assert [json.loads(data) for data in decoded[:-1]] == events
    assert decoded[-1] == "[DONE]"
