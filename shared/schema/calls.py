"""The bodies of the endpoints other than chat: OpenAI's completions and embeddings, and vLLM's rerank, score, tokenize
and detokenize. A worker answers each with one JSON object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag, model_validator

from shared.errors import InvalidRequest
from shared.schema.base import LIST, LISTS, OBJECT, TEXT, TOKENS, Strict, text_or_list, text_or_object
from shared.schema.request import (
    INT64,
    Biases,
    ChatCompletionRequest,
    DeadlineSeconds,
    Metadata,
    ModelName,
    ServiceTier,
    Stop,
)

CallApi = Literal["completions", "detokenize", "embeddings", "rerank", "score", "tokenize"]

MAX_INPUTS = 2048
"""Inputs of a request for embeddings: OpenAI's limit. The same for prompts and for documents."""

MAX_CHOICES = 2048
"""Answers that the completions of one request may have: prompts times `n`, or `best_of`."""

OPENAI_MAX_TOKENS = 16
"""The tokens of a completion whose request sets no limit, as in OpenAI's API."""

TokenNumber = Annotated[int, Field(ge=0, lt=2**31)]


def kind_of_input(value: object) -> str | None:
    """Returns the branch of a field that is a text, texts, token ids, or lists of token ids."""
    if not isinstance(value, list):
        return TEXT if isinstance(value, str) else None
    first = next(iter(cast(list[Any], value)), "")
    if isinstance(first, list):
        return LISTS
    return TOKENS if isinstance(first, int) and not isinstance(first, bool) else LIST


INPUT = Discriminator(
    kind_of_input,
    custom_error_type="input_type",
    custom_error_message="expected a string, a list of strings, a list of token ids, or a list of such lists",
)
Tokens = Annotated[list[TokenNumber], Field(min_length=1, fail_fast=True)]
Input = Annotated[
    Annotated[str, Field(min_length=1), Tag(TEXT)]
    | Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True), Tag(LIST)
    ]
    | Annotated[Tokens, Tag(TOKENS)]
    | Annotated[list[Tokens], Field(max_length=MAX_INPUTS, fail_fast=True), Tag(LISTS)],
    INPUT,
]
Prompt = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True), Tag(LIST)]
    | Annotated[Tokens, Tag(TOKENS)]
    | Annotated[list[Tokens], Field(max_length=MAX_INPUTS, fail_fast=True), Tag(LISTS)],
    INPUT,
]
Texts = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True), Tag(LIST)],
    Discriminator(
        text_or_list, custom_error_type="texts_type", custom_error_message="expected a string or a list of strings"
    ),
]


class DocumentObject(Strict):
    text: str


Document = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[DocumentObject, Tag(OBJECT)],
    Discriminator(
        text_or_object,
        custom_error_type="document_type",
        custom_error_message="expected a string, or an object with a 'text'",
    ),
]


class CallRequest(Strict):
    """What the requests of all these endpoints have."""

    model: ModelName
    metadata: Metadata | None = None
    service_tier: ServiceTier | None = None
    user: str | None = None
    # Ignite's own fields
    background: bool | None = Field(None, description="Answer 202 with a job instead of waiting for the answer.")
    deadline_seconds: DeadlineSeconds | None = None
    webhook_url: str | None = Field(None, description="URL that receives a signed event when a background job ends.")

    @property
    def answers(self) -> int:
        """The number of texts that the engine generates for it."""
        return 0

    @property
    def answer_tokens(self) -> int:
        """The most tokens of one of them."""
        return 0


class EmbeddingsRequest(CallRequest):
    """The body of POST /v1/embeddings."""

    input: Input
    dimensions: int | None = Field(None, ge=1, le=65_536)
    encoding_format: Literal["float", "base64"] | None = None


class CompletionRequest(CallRequest):
    """The body of POST /v1/completions. Without a stream."""

    prompt: Prompt
    best_of: int | None = Field(None, ge=1, le=20)
    echo: bool | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Biases | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    max_tokens: int | None = Field(None, ge=0, lt=INT64)
    n: int | None = Field(None, ge=1, le=128)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    stop: Stop | None = None
    stream: bool | None = None
    suffix: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def fields_agree(self) -> CompletionRequest:
        for param, message in self._faults():
            raise InvalidRequest(message, param=param)
        return self

    def _faults(self) -> Iterable[tuple[str, str]]:
        if self.stream:
            yield "stream", "Completions are not streamed: leave 'stream' out, or stream a chat completion."
        if self.best_of is not None and self.best_of < (self.n or 1):
            yield "best_of", "'best_of' must be at least 'n'."
        if self.answers > MAX_CHOICES:
            asked = "n" if self.best_of is None else "best_of"
            yield asked, f"The request asks for {self.answers} completions; the limit is {MAX_CHOICES}."

    @property
    def answers(self) -> int:
        return prompts_of(self.prompt) * (self.best_of or self.n or 1)

    @property
    def answer_tokens(self) -> int:
        return OPENAI_MAX_TOKENS if self.max_tokens is None else self.max_tokens


def prompts_of(prompt: Prompt) -> int:
    return len(prompt) if kind_of_input(prompt) in (LIST, LISTS) else 1


class RerankRequest(CallRequest):
    """The body of POST /v1/rerank, as vLLM, Jina and Cohere have it."""

    query: str
    documents: list[Document] = Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)
    top_n: int | None = Field(None, ge=0, le=MAX_INPUTS)
    return_documents: bool | None = None


class ScoreRequest(CallRequest):
    """The body of POST /v1/score: one text against one or many, or two lists of the same length, pair by pair."""

    text_1: Texts
    text_2: Texts

    @model_validator(mode="after")
    def lengths_agree(self) -> ScoreRequest:
        first, second = texts_of(self.text_1), texts_of(self.text_2)
        if len(first) not in (1, len(second)):
            reason = f"'text_1' has {len(first)} texts and 'text_2' has {len(second)}: send one text, or as many"
            raise InvalidRequest(f"{reason}.", param="text_1")
        return self


def texts_of(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


class TokenizeRequest(CallRequest):
    """The body of POST /tokenize, for a text."""

    prompt: str
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(CallRequest):
    """The body of POST /detokenize."""

    tokens: list[TokenNumber] = Field(fail_fast=True)


JobRequest = ChatCompletionRequest | CallRequest

CALL_REQUESTS: Mapping[CallApi, type[CallRequest]] = {
    "completions": CompletionRequest,
    "detokenize": DetokenizeRequest,
    "embeddings": EmbeddingsRequest,
    "rerank": RerankRequest,
    "score": ScoreRequest,
    "tokenize": TokenizeRequest,
}
"""The request of each of these endpoints."""
