"""A foreign gRPC client: `buf curl`, which reads the schema by reflection, as grpcurl does."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.producer.api import Api, ask
from tests.producer.grpc.corpus import CORPUS
from tests.support.grpc_client import SERVICE

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUF = Path(sys.executable).with_name("buf")
"""It comes with the development group."""


async def buf_curl(api: Api, method: str, body: dict[str, Any], *options: str) -> tuple[int, str, str]:
    """Returns exit status, output and errors."""
    url = f"http://{api.grpc_address}/{SERVICE}/{method}"
    process = await asyncio.create_subprocess_exec(
        BUF,
        "curl",
        "--http2-prior-knowledge",
        "--protocol",
        "grpc",
        "--data",
        "@-",
        *options,
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate(json.dumps(body).encode())
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


def messages_in(output: str) -> list[Any]:
    """Returns the JSON objects in the output."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while rest := output[at:].lstrip():
        message, size = decoder.raw_decode(rest)
        found.append(message)
        at = len(output) - len(rest) + size
    return found


async def test_the_first_example_of_the_reference(api: Api) -> None:
    body = ask() | CORPUS["the reference's first example"] | {"max_tokens": 3}
    status, said, complained = await buf_curl(api, "ChatCompletion", body)
    assert status == 0, complained
    (answer,) = messages_in(said)
    http = (await api.post(body)).json
    assert answer["choices"][0]["message"]["content"] == http["choices"][0]["message"]["content"]
    assert answer["usage"] == http["usage"]
    assert isinstance(answer["created"], int)


async def test_the_second_example_of_the_reference(api: Api) -> None:
    body = ask() | CORPUS["the reference's second example"] | {"max_tokens": 3}
    status, said, complained = await buf_curl(api, "StreamChatCompletion", body)
    assert status == 0, complained
    deltas = [chunk["choices"][0]["delta"] for chunk in messages_in(said)]
    http = (await api.post(body)).frames
    assert deltas == [frame["choices"][0]["delta"] for frame in http]


@pytest.mark.parametrize("name", CORPUS)
async def test_it_reads_every_body(api: Api, name: str) -> None:
    body = {key: value for key, value in (ask() | CORPUS[name]).items() if key != "stream_options"}
    status, _, complained = await buf_curl(api, "ChatCompletion", body)
    assert status == 0, complained
    seed = CORPUS[name].get("seed")
    assert seed is None or api.engine.asked[-1]["seed"] == seed


async def test_it_shows_an_error_with_its_details(api: Api) -> None:
    status, _, complained = await buf_curl(api, "ChatCompletion", ask(model="none"))
    assert status != 0
    error = json.loads(complained)
    assert (error["code"], error["message"]) == ("not_found", "The model 'none' does not exist.")
    assert error["details"][0]["type"] == "google.rpc.ErrorInfo"
