"""Checks a request's media URLs and engine-specific fields. Pure.

Engines fetch an `image_url` from inside their network, and some open files; some of their fields are programs, paths or
addresses. Clients may use these only if a setting allows it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from producer.addresses import Target, address_of, private_fault, target_of
from shared.errors import InvalidRequest
from shared.schema import CallRequest, ChatCompletionRequest, JobRequest, RerankRequest
from shared.schema.base import short
from shared.schema.messages import AudioPart, ChatMessage, FilePart, ImagePart, InputFile, RefusalPart, TextPart
from shared.settings import Settings, split_list

Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart

ALL_FIELDS = "*"

REFUSED = frozenset(
    {
        # vLLM
        "chat_template",
        "extra_args",
        "hf_overrides",
        "logits_processors",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "multi_modal_data",
        "multi_modal_uuids",
        "trust_remote_code",
        "trust_request_chat_template",
        "vllm_xargs",
        # SGLang
        "custom_logit_processor",
        "custom_params",
        "audio_data",
        "image_data",
        "video_data",
        # any
        "draft_model",
        "speculative_config",
        "tokenizer",
    }
)
"""Fields that contain programs, program arguments, files or addresses, or select other weights."""

REFUSED_KINDS = re.compile(
    r"(lora|adapter)(_.*)?|.*_(path|paths|file|files|dir|url|urls|uri|template|plugin|processor|backend|xargs|embeds)"
)

TEMPLATE_ARGUMENTS = frozenset(
    {
        *("chat_template", "conversation", "messages", "tokenize", "tokenizer_kwargs"),
        *("max_length", "padding", "truncation", "return_dict", "return_tensors"),
    }
)
"""Members of `chat_template_kwargs` that go to the tokenizer instead of its template."""

CARRIERS = frozenset(
    {
        *("chat_template_kwargs", "extra_body", "generation_config", "nvext"),
        *("options", "parameters", "sampling_params", "structured_outputs"),
    }
)
"""Fields whose members engines treat as fields of the request."""

MEDIA = frozenset(
    {
        *("image", "images", "image_url", "image_embeds", "image_pil", "input_image"),
        *("audio", "audio_url", "audio_embeds", "input_audio"),
        *("video", "videos", "video_url", "video_embeds", "input_video"),
        *("file", "file_url", "file_data", "file_id", "path", "url", "prompt_embeds"),
    }
)
"""Fields that are checked in their own kinds of parts only: elsewhere an engine would read them unchecked."""

MOST_URLS, MOST_HOSTS = 500, 16
"""Image URLs of a request, and their different hosts. Images in data: URLs do not count."""

LONGEST_SALT = 256

FILE_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """`media_urls`: allowed media: `data:` URLs, public https URLs as well, or any. `fields`: refused fields that are
    allowed all the same, or `*` for all. `hosts`: the only hosts of https URLs, empty for all public ones.
    """

    media_urls: Literal["data", "https", "any"]
    fields: frozenset[str]
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings) -> RequestPolicy:
        hosts = frozenset(host.lower() for host in split_list(settings.media_hosts))
        return cls(settings.media_urls, frozenset(split_list(settings.engine_fields)), hosts)

    def check(self, request: JobRequest) -> Mapping[str, str]:
        """Returns the hosts of media URLs that have to be looked up, each with a field that names it. Raises
        InvalidRequest for the first field that is not allowed.
        """
        if request.model_extra:
            if not is_cache_salt(request.model_extra.get("cache_salt")):
                message = f"Invalid value for 'cache_salt': expected a string of 1 to {LONGEST_SALT} characters."
                raise InvalidRequest(message, param="cache_salt")
            for param in self._refused_fields(request.model_extra):
                raise InvalidRequest(f"The field '{param}' is not accepted by this server: leave it out.", param=param)
        if isinstance(request, CallRequest):
            self._check_documents(request)
            return {}
        for at, (param, _) in enumerate(media_urls_in(request)):
            if at >= MOST_URLS and self.media_urls != "any":
                raise InvalidRequest(
                    f"Invalid value for '{param}': a request may have {MOST_URLS} image URLs at most.", param=param
                )
        for index, message in enumerate(request.messages):
            if message.model_extra or isinstance(message.content, list):
                for where, reason in self._message_faults(message):
                    param = f"messages[{index}]{where}"
                    raise InvalidRequest(f"Invalid value for '{param}': {reason}.", param=param)
        return self._hosts_in(request) if self.media_urls == "https" and not self.hosts else {}

    def _check_documents(self, request: CallRequest) -> None:
        """Raises InvalidRequest for a document with media: these endpoints take texts."""
        documents = request.documents if isinstance(request, RerankRequest) else ()
        for at, document in enumerate(documents):
            for where, reason in self._unexpected(None if isinstance(document, str) else document.model_extra, ""):
                param = f"documents[{at}]{where}"
                raise InvalidRequest(f"Invalid value for '{param}': {reason}.", param=param)

    def _hosts_in(self, request: ChatCompletionRequest) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for param, url in media_urls_in(request):
            target = target_of(url)
            if isinstance(target, Target) and address_of(target.host) is None:
                found.setdefault(target.host, param)
            if len(found) > MOST_HOSTS:
                raise InvalidRequest(
                    f"Invalid value for '{param}': a request may name {MOST_HOSTS} hosts of images at most.",
                    param=param,
                )
        return found

    # ── fields ──

    def _refused_fields(self, extra: Mapping[str, Any]) -> Iterator[str]:
        if ALL_FIELDS in self.fields:
            return
        for name, value in extra.items():
            if value is None or name in self.fields:
                continue
            if is_refused(name):
                yield short(name)
            elif name in CARRIERS and isinstance(value, dict):
                members = cast(dict[str, Any], value)
                arguments = TEMPLATE_ARGUMENTS if name == "chat_template_kwargs" else frozenset[str]()
                yield from (f"{name}.{short(each)}" for each in self._refused_members(members, arguments))

    def _refused_members(self, members: Mapping[str, Any], arguments: Collection[str]) -> Iterator[str]:
        given = (name for name, value in members.items() if value is not None and name not in self.fields)
        return (name for name in given if name in arguments or is_refused(name))

    # ── media ──

    def _message_faults(self, message: ChatMessage) -> Iterator[tuple[str, str]]:
        yield from self._unexpected(message.model_extra, "")
        for at, part in enumerate(message.content if isinstance(message.content, list) else ()):
            for where, reason in self._part_faults(part):
                yield f".content[{at}]{where}", reason

    def _part_faults(self, part: Part) -> Iterable[tuple[str, str]]:
        yield from self._unexpected(part.model_extra, "")
        match part:
            case ImagePart():
                yield from self._unexpected(part.image_url.model_extra, ".image_url")
                yield from self._named(".image_url.url", self._url_fault(part.image_url.url))
            case AudioPart():
                yield from self._unexpected(part.input_audio.model_extra, ".input_audio")
                yield from self._named(".input_audio.data", self._embedded_fault(part.input_audio.data))
            case FilePart():
                yield from self._unexpected(part.file.model_extra, ".file")
                yield from self._file_faults(part.file)
            case _:
                pass

    def _file_faults(self, file: InputFile) -> Iterator[tuple[str, str]]:
        if file.file_data is not None:
            yield from self._named(".file.file_data", self._embedded_fault(file.file_data))
        if file.file_id is not None and self.media_urls != "any" and not FILE_ID.fullmatch(file.file_id):
            yield ".file.file_id", "expected the id of a file"

    def _unexpected(self, extra: Mapping[str, Any] | None, where: str) -> Iterator[tuple[str, str]]:
        for name, value in (extra or {}).items():
            if value is None:
                continue
            if name == "uuid":
                yield f"{where}.uuid", "media ids are shared by all tenants and not accepted; leave it out"
            elif self.media_urls != "any" and name in MEDIA:
                yield f"{where}.{name}", "this field is not defined here; leave it out"

    def _named(self, where: str, reason: str | None) -> Iterator[tuple[str, str]]:
        if reason is not None:
            yield where, reason

    def _url_fault(self, url: str) -> str | None:
        if self.media_urls == "any" or url.startswith("data:"):
            return None
        if self.media_urls == "data":
            return "expected a data: URL"
        if not url.startswith("https://"):
            return "expected a data: URL, or an https URL of a public host"
        target = target_of(url)
        if isinstance(target, str):
            return target
        if self.hosts and target.host not in self.hosts:
            return "its host is not one of those that this server allows"
        return private_fault(target)

    def _embedded_fault(self, data: str) -> str | None:
        """Returns the fault of data that is neither base64 nor a data: URL. Checks for typical characters only."""
        if self.media_urls == "any" or data.startswith("data:") or not any(mark in data for mark in ":.\\~%"):
            return None
        return "expected base64, or a data: URL"


def media_urls_in(request: ChatCompletionRequest) -> Iterator[tuple[str, str]]:
    """Yields each image URL that an engine would fetch, with its field."""
    for index, message in enumerate(request.messages):
        for at, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if isinstance(part, ImagePart) and not part.image_url.url.startswith("data:"):
                yield f"messages[{index}].content[{at}].image_url.url", part.image_url.url


def is_cache_salt(value: Any) -> bool:
    return value is None or (isinstance(value, str) and 1 <= len(value) <= LONGEST_SALT)


def is_refused(name: str) -> bool:
    return name in REFUSED or REFUSED_KINDS.fullmatch(name) is not None
