"""openai-node, as npm has it, against the real API."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.model import Model
from openai.types.responses import Response

from tests.clients.published import fits
from tests.support.npm import installed

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent / "node"


@pytest.fixture(scope="session")
def project(request: pytest.FixtureRequest) -> Path:
    """A directory with openai-node and the script in it."""
    project = installed(request.config, "openai-node", HERE)
    shutil.copy(HERE / "features.mjs", project)
    return project


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seen(project: Path, demo_url: str) -> dict[str, Any]:
    """What the script saw, feature by feature."""
    command = ("node", "features.mjs", demo_url, "demo")
    process = await asyncio.create_subprocess_exec(*command, cwd=project, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


async def test_nothing_failed(seen: dict[str, Any]) -> None:
    assert not [name for name, value in seen.items() if isinstance(value, dict) and "failed" in value], seen


async def test_answers_are_whole(seen: dict[str, Any]) -> None:
    for name in ("create", "streamHelper", "choices"):
        assert seen[name]["choices"][0]["message"]["content"]
    for name in ("create", "choices"):
        fits(ChatCompletion, ChatCompletion.model_validate(seen[name]))
    for chunk in seen["stream"]:
        fits(ChatCompletionChunk, ChatCompletionChunk.model_validate(chunk))
    assert seen["stream"][-1]["usage"]["completion_tokens"] > 0
    assert [choice["index"] for choice in seen["choices"]["choices"]] == [0, 1, 2]


async def test_a_stream_says_what_the_answer_says(seen: dict[str, Any]) -> None:
    pieces = [choice["delta"].get("content", "") for chunk in seen["stream"] for choice in chunk["choices"]]
    content = seen["create"]["choices"][0]["message"]["content"]
    assert "".join(pieces) == seen["streamHelper"]["choices"][0]["message"]["content"] == content


async def test_tools_are_run(seen: dict[str, Any]) -> None:
    assert seen["tools"]["asked"] == ["Paris", "Paris"]
    assert "18C" in seen["tools"]["whole"]
    assert "18C" in seen["tools"]["streamed"]


async def test_output_is_typed(seen: dict[str, Any]) -> None:
    assert set(seen["schema"]) == {"name", "age"}


async def test_models(seen: dict[str, Any]) -> None:
    assert seen["models"] == ["demo"]
    fits(Model, Model.model_validate(seen["retrieve"]))


async def test_errors_are_of_their_class(seen: dict[str, Any]) -> None:
    bad = {"kind": "BadRequestError", "status": 400}
    assert seen["badRequest"] == {**bad, "code": "invalid_value", "param": "messages"}
    assert seen["badStream"] == {**bad, "code": "context_length_exceeded", "param": "messages"}
    unknown = {"kind": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}
    assert seen["unknownModel"] == unknown


async def test_a_stream_may_be_broken_off(seen: dict[str, Any]) -> None:
    assert seen["breakOff"] == "chat.completion.chunk"


async def test_stored_completions_and_headers(seen: dict[str, Any]) -> None:
    assert seen["stored"] == {"kept": True, "metadata": {"by": "node"}, "gone": 404}
    assert seen["rawResponse"] == {"job": True, "request": True}


async def test_responses(seen: dict[str, Any]) -> None:
    said = seen["create"]["choices"][0]["message"]["content"]
    for name in ("response", "responseHelper"):
        assert seen[name]["output_text"] == said
        own = {key: value for key, value in seen[name].items() if key != "output_text" and not key.startswith("_")}
        fits(Response, Response.model_validate(own))


async def test_a_background_response_is_resumed(seen: dict[str, Any]) -> None:
    background = seen["responseInBackground"]
    events = background["events"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert background["response"]["output"] == events[-1]["response"]["output"]
    assert background["gone"] == 404
    assert seen["responseCancelled"] in ("cancelled", "completed")


async def test_responses_call_functions_and_have_types(seen: dict[str, Any]) -> None:
    tools = seen["responseTools"]
    assert (tools["called"], tools["items"]) == ("get_weather", ["message"])
    assert "18C" in tools["said"]
    assert set(seen["responseSchema"]) == {"name", "age"}
    assert seen["badResponse"] == {
        "kind": "BadRequestError",
        "status": 400,
        "code": "invalid_value",
        "param": "tools[0].type",
    }
