"""The URLs and the engine fields that a request may have."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from producer.admission.request_policy import RequestPolicy
from shared.errors import InvalidRequest
from shared.schema import check_request
from shared.settings import Settings
from tests.producer.api import Api, ask, embedded_api
from tests.support.batches import begun, jsonl, line, outcome_of, over
from tests.support.grpc_client import grpc_client
from tests.support.grpc_client import refused as grpc_refused

PLAIN = Settings()


def checked(fields: dict[str, Any], **changes: Any) -> str | None:
    """Returns the refused field."""
    try:
        RequestPolicy.of(Settings(**changes)).check(check_request(fields))
    except InvalidRequest as error:
        assert error.param
        assert error.param in error.message
        return error.param
    return None


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def shown(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [*parts]}]}


INSIDE = [
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/",
    "http://example.com/a.png",
    "HTTPS://example.com/a.png",
    "https://127.0.0.1/a.png",
    "https://127。0。0。1/a.png",
    "https://１２７.0.0.1/a.png",
    "https://2130706433/a.png",
    "https://0x7f.1/a.png",
    "https://[::1]/a.png",
    "https://[::ffff:0:10.0.0.1]/a.png",
    "https://[64:ff9b::a00:1]/a.png",
    "https://localhost/a.png",
    "https://metadata.google.internal/a.png",
    "https://redis/a.png",
    "https://example.com:6/a.png",
    "https://user:word@example.com/a.png",
    "https://example.com\\@127.0.0.1/a.png",
    " https://example.com/a.png",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "/etc/passwd.png",
    "../../a.png",
    "a.png",
    "ftp://example.com/a.png",
    "gopher://example.com/",
    "DATA:/../../a.png",
    "",
]
OUTSIDE = [
    "data:image/png;base64,AAAA",
    "https://example.com/a.png",
    "https://example.com:8443/a?b=c",
    "https://münchen.de/a",
]


@pytest.mark.parametrize("url", INSIDE)
def test_images_at_private_addresses_are_refused(url: str) -> None:
    assert checked(shown(image("data:,"), image(url))) == "messages[1].content[1].image_url.url"
    assert checked(shown(image(url)), media_urls="any") is None


@pytest.mark.parametrize("url", OUTSIDE)
def test_images_may_be_data_or_public(url: str) -> None:
    assert checked(shown(image(url))) is None
    assert (checked(shown(image(url)), media_urls="data") is None) is url.startswith("data:")


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {"data": "http://10.0.0.1/a", "format": "wav"}}, "input_audio.data"),
        ({"type": "input_audio", "input_audio": {"data": "../a.wav", "format": "wav"}}, "input_audio.data"),
        ({"type": "file", "file": {"file_data": "file:///etc/passwd"}}, "file.file_data"),
        ({"type": "file", "file": {"file_data": "https://example.com/a"}}, "file.file_data"),
        ({"type": "file", "file": {"file_id": "../../etc/passwd"}}, "file.file_id"),
        ({"type": "file", "file": {"file_id": "http://10.0.0.1/"}}, "file.file_id"),
        ({"type": "file", "file": {"file_url": "http://10.0.0.1/"}}, "file.file_url"),
        ({"type": "text", "text": "x", "image_url": {"url": "file:///etc/passwd"}}, "image_url"),
        ({"type": "text", "text": "x", "video_url": {"url": "file:///etc/passwd"}}, "video_url"),
        (image("data:,") | {"audio_url": {"url": "file:///etc/passwd"}}, "audio_url"),
        (image("data:,", path="/etc/passwd"), "image_url.path"),
        (image("data:,") | {"uuid": "another's"}, "uuid"),
    ],
)
def test_other_parts_cannot_be_urls(part: dict[str, Any], param: str) -> None:
    assert checked(shown(part)) == f"messages[1].content[0].{param}"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "AA+/==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA", "filename": "a.txt"}},
        {"type": "file", "file": {"file_data": "/9j/AAAA"}},
        {"type": "file", "file": {"file_id": "file-abc_123"}},
        {"type": "text", "text": "see file:///etc/passwd", "cache_control": {"type": "ephemeral"}},
    ],
)
def test_parts_with_their_bytes_are_accepted(part: dict[str, Any]) -> None:
    assert checked(shown(part), media_urls="data") is None


FIELDS: dict[str, Any] = {
    "chat_template": "{% for a in range(10**9) %}{% endfor %}",
    "logits_processors": ["os.system"],
    "vllm_xargs": {"a": 1},
    "lora_path": "/etc",
    "lora_request": {"path": "/etc"},
    "lora": [{"id": 0, "scale": 1}],
    "lora_id": "x",
    "adapter_id": "somebody/adapter",
    "mm_processor_kwargs": {"num_crops": 10**9},
    "media_io_kwargs": {"video": {"num_frames": 10**9}},
    "guided_decoding_backend": "outlines",
    "custom_logit_processor": "80049",
    "custom_params": {},
    "prompt_embeds": "gASV",
    "multi_modal_data": {"image": "/etc/passwd"},
    "image_data": ["/etc/passwd"],
    "model_path": "/etc",
    "callback_url": "http://10.0.0.1/",
}
NESTED = {
    "chat_template_kwargs.chat_template": {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
    "chat_template_kwargs.tokenize": {"chat_template_kwargs": {"enable_thinking": False, "tokenize": True}},
    "extra_body.lora_path": {"extra_body": {"lora_path": "/etc"}},
    "structured_outputs._backend": {"structured_outputs": {"_backend": "outlines", "regex": "a"}},
    "nvext.chat_template": {"nvext": {"chat_template": "x"}},
}
TAKEN: dict[str, Any] = {
    "top_k": 40,
    "min_p": 0.1,
    "chat_template_kwargs": {"enable_thinking": False, "documents": [{"source_url": "https://example.com"}]},
    "documents": [{"title": "x", "text": "y"}],
    "structured_outputs": {"json": {"properties": {"lora_path": {}}}},
    "guided_json": {"properties": {"chat_template": {}}},
    "grammar": 'root ::= "a"',
    "add_generation_prompt": False,
    "continue_final_message": True,
    "reasoning_format": "none",
    "cache_prompt": True,
    "stop_token_ids": [1],
    "thinking": {"type": "disabled"},
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_are_code_paths_or_addresses_are_refused(name: str) -> None:
    assert checked(ask(**{name: FIELDS[name]})) == name
    assert checked(ask(**{name: None})) is None
    assert checked(ask(**{name: FIELDS[name]}), engine_fields=f"top_k, {name}") is None
    assert checked(ask(**{name: FIELDS[name]}), engine_fields="*") is None


@pytest.mark.parametrize("param", NESTED)
def test_such_fields_are_refused_inside_others(param: str) -> None:
    assert checked(ask(**NESTED[param])) == param


@pytest.mark.parametrize("name", TAKEN)
def test_fields_with_plain_values_are_accepted(name: str) -> None:
    assert checked(ask(**{name: TAKEN[name]})) is None


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with embedded_api(grpc=True, files_dir=tmp_path) as api:
        yield api


async def test_every_kind_of_call_applies_the_policy(api: Api) -> None:
    """HTTP, a job, gRPC, a batch line: no refused field reaches the engine."""
    for fields, param in (
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"messages": shown(image("file:///etc/passwd"))["messages"]}, "messages[1].content[0].image_url.url"),
    ):
        for more in ({}, {"stream": True}, {"background": True}):
            answer = await api.post(ask() | fields | more)
            assert (answer.status, answer.error["param"]) == (400, param)
        in_grpc = {"extra_body": fields} if "chat_template" in fields else fields
        async with grpc_client(api.grpc_address) as client:
            assert (await grpc_refused(client.unary(ask() | in_grpc))).error["param"] == param
    async with AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as client:
        lines = [
            line(1),
            line(2, chat_template="{{ 1 }}"),
            line(3, messages=shown(image("http://10.0.0.1/"))["messages"]),
        ]
        done, failed = await outcome_of(client, await over(client, await begun(client, jsonl(lines))))
    assert [each["custom_id"] for each in done] == ["line-1"]
    assert {each["response"]["status_code"] for each in failed} == {400}
    assert {each["response"]["body"]["error"]["param"] for each in failed} == {
        "chat_template",
        "messages[1].content[0].image_url.url",
    }
    assert len(api.engine.asked) == 1
