"""Every setting, in one place: an option of the command line, `IGNITE_…` in the environment, a line in `ignite.toml`,
in that order.

A setting that is unknown or bad stops the start with one clear sentence (`SettingsError`).
"""

from __future__ import annotations

import os
import re
from base64 import b64decode
from collections.abc import Mapping
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as PydanticSettingsError,
)

from shared.names import MODEL_RULE, TENANT_RULE, bad_model, bad_tenant, is_model_name, is_tenant_name, shown
from shared.setting_urls import fault_of_url

CONFIG_FILE = Path("ignite.toml")
PREFIX = "IGNITE_"
WEIGHT = re.compile(r"\d{1,6}(\.\d{1,6})?")
LEAST_KEY, LEAST_VARIETY = 16, 8
"""Least characters of a key in `api_keys`, and how many of them must differ, so that it cannot be guessed."""

FOR_TESTS = "IGNITE_TEST_"
FOR_CLIENTS = frozenset({"IGNITE_URL", "IGNITE_API_KEY"})
"""Variables of the command-line client, which are not settings."""


EngineName = Literal["llamacpp", "openai", "vllm", "simulated"]


class SettingsError(Exception):
    """One sentence about a setting that cannot be used."""


class Settings(BaseSettings):
    """All settings. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=CONFIG_FILE, extra="forbid", frozen=True, env_ignore_empty=True
    )

    # the backend
    amqp_url: str | None = Field(
        None,
        description="RabbitMQ's URL, or the URLs of a cluster's nodes, comma-separated. Set it together with "
        "redis_url; without both, the embedded backend is used.",
    )
    redis_url: str | None = Field(
        None,
        description="Redis's URL, or URLs of a Redis Cluster's nodes, comma-separated. Set it together with amqp_url; "
        "without both, the embedded backend is used.",
    )
    redis_eviction: bool = Field(
        False,
        description="True: accept a Redis whose maxmemory-policy evicts keys when it is full, which can lose jobs and "
        "API keys. False: refuse to start with it.",
    )
    data_dir: Path = Field(Path("ignite-data"), description="Directory of the embedded backend's database and files.")
    queue_limit: int = Field(
        100_000,
        ge=1,
        description="Most jobs that may wait in one queue (a model and a tier). Further jobs are refused.",
    )
    queue_token_limit: int = Field(
        0, ge=0, description="Most estimated tokens of the jobs that may wait in one queue. 0: unlimited."
    )
    tenant_queue_limit: int = Field(
        20_000, ge=0, description="Most jobs of one tenant that may wait in one queue. 0: unlimited."
    )
    tenant_store_limit: int | None = Field(
        None,
        ge=0,
        description="Most bytes of requests, streams and results that one tenant may keep in the store. 0: unlimited. "
        "Default: a quarter of Redis's maxmemory, or 2 GiB.",
    )
    fairness: bool = Field(
        True,
        description="True: the tenants of a queue share its workers by tokens. False: jobs start in the order of "
        "arrival.",
    )
    tenant_weights: str = Field(
        "",
        description="Shares of tenants in a queue: comma-separated tenant=weight pairs. A tenant that is not named "
        "has weight 1.",
    )
    consumer_timeout: float = Field(
        1800,
        gt=0,
        description="RabbitMQ's consumer_timeout, in seconds. Needed before RabbitMQ 3.12, which cannot report it.",
    )

    # the API
    host: str = Field("127.0.0.1", description="Address that HTTP and gRPC bind to.")
    port: int = Field(8000, ge=0, le=65535, description="Port for HTTP. 0: a free one.")
    grpc: bool = Field(True, description="Whether gRPC is served beside HTTP.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port for gRPC. 0: a free one.")
    grpc_connections: int = Field(1000, ge=1, description="Most gRPC connections open at a time.")
    grpc_address_connections: int = Field(
        500, ge=1, description="Most gRPC connections of one client address; at most half of all. On Linux only."
    )
    grpc_streams: int = Field(
        1000, ge=1, description="Most calls open at a time on one gRPC connection. Further calls wait."
    )
    grpc_calls: int = Field(
        10_000, ge=2, description="Most gRPC calls open at a time. One tenant may have half of them."
    )
    grpc_receive_memory: int = Field(
        160 * 1024 * 1024,
        ge=1024,
        description="Most bytes of gRPC messages received at a time; each message counts as body_limit.",
    )
    grpc_receive_timeout: float = Field(
        30, gt=0, description="Seconds within which a gRPC message must arrive completely."
    )
    api_keys: str = Field(
        "", description="API keys: comma-separated name=key pairs. Keys that `ignite keys` creates are valid as well."
    )
    metrics_key: str | None = Field(
        None, description="A key that may read /metrics and nothing else. Operators' keys may read it as well."
    )
    no_auth: bool | None = Field(
        None,
        description="True: serve calls without an API key, with an operator's rights. False: require keys. Default: "
        "only `ignite up` with its embedded backend, bound to loopback, serves without keys, until the "
        "first key is created.",
    )
    no_auth_anywhere: bool = Field(False, description="Allows no_auth on an address that is not loopback.")
    no_auth_hosts: str = Field(
        "",
        description="Further host names that calls without a key may use in Host and Origin, comma-separated. "
        "Loopback's names are always allowed.",
    )
    head_limit: int = Field(
        64 * 1024, ge=1024, description="Most bytes of an HTTP request's head (request line and headers)."
    )
    connection_limit: int = Field(
        10_000,
        ge=1,
        description="Most HTTP connections of one process. Lower where the process may not open so many files.",
    )
    address_connection_limit: int = Field(
        8_000,
        ge=1,
        description="Most HTTP connections of one client address to one process; at most four fifths of "
        "connection_limit.",
    )
    tenant_call_limit: int = Field(
        8_000,
        ge=1,
        description="Most requests of one tenant that one process serves at a time; at most four fifths of "
        "connection_limit.",
    )
    tenant_reader_limit: int = Field(
        512,
        ge=1,
        description="Most streams of jobs' events that one tenant may have open on one process. Further ones get 429.",
    )
    head_timeout: float = Field(
        30, gt=0, description="Seconds within which an HTTP request's head must arrive, from its first byte."
    )
    body_timeout: float = Field(
        30, gt=0, description="Seconds without a byte of an incomplete request body after which the request is refused."
    )
    idle_timeout: float = Field(75, gt=0, description="Seconds after which an idle HTTP connection is closed.")
    write_timeout: float = Field(
        60, gt=0, description="Seconds after which a client that does not read its response is disconnected."
    )
    body_limit: int = Field(20 * 1024 * 1024, ge=1024, description="Most bytes of one request's body.")
    body_budget: int = Field(
        256 * 1024 * 1024,
        ge=1024,
        description="Most bytes of request bodies that one API process holds at a time. Further requests get 503.",
    )
    media_urls: Literal["data", "https", "any"] = Field(
        "https",
        description="Which image URLs requests may contain. data: only data: URLs. https: also public https URLs. "
        "any: every URL.",
    )
    media_hosts: str = Field(
        "",
        description="Hosts of image URLs, comma-separated: only these are allowed, and they are not looked up. "
        "Default: all public hosts.",
    )
    engine_fields: str = Field(
        "",
        description="Engine fields of requests that are allowed though they are refused by default, such as "
        "chat_template; comma-separated. *: all.",
    )
    tenant_body_budget: int = Field(
        128 * 1024 * 1024,
        ge=1024,
        description="Most bytes of one tenant's request bodies that one API process holds at a time. Further requests "
        "get 429.",
    )
    answer_token_limit: int = Field(
        1_000_000,
        ge=0,
        description="Most tokens that one request may ask for: max_completion_tokens times n. 0: unlimited.",
    )
    models: str = Field(
        "",
        description="Models that are served even while they have no worker: comma-separated ids. `alias=id` adds an "
        "alias for a model.",
    )
    worker_patience: float = Field(
        600,
        ge=0,
        description="Seconds after a model's last worker was seen during which its jobs are still accepted. Models "
        "named in models have no such limit.",
    )
    job_deadline: float = Field(86_400, gt=0, description="Seconds until a job's deadline, where the client sets none.")
    retention: float = Field(
        3_600, gt=0, description="Seconds for which the record and log of a finished call are kept."
    )
    job_retention: float = Field(
        86_400, gt=0, description="Seconds for which the record and log of a finished job (POST /v1/jobs) are kept."
    )
    store_retention: float = Field(
        30 * 86_400, gt=0, description="Seconds for which a completion with `store: true` is kept."
    )
    keepalive: float = Field(
        10, gt=0, description="Seconds without a chunk after which a stream sends a keep-alive comment."
    )
    sweep: float = Field(60, gt=0, description="Seconds between searches for jobs whose message the broker has lost.")
    file_limit: int = Field(512 * 1024 * 1024, ge=1, description="Most bytes of one uploaded file.")
    tenant_file_limit: int = Field(
        10 * 1024**3,
        ge=0,
        description="Most bytes of one tenant's files; each file counts 64 KiB more than its size. 0: unlimited.",
    )
    file_retention: float = Field(
        30 * 86_400, gt=0, description="Seconds for which batches are kept, and files whose client sets no expiry."
    )
    files_dir: Path | None = Field(None, description="Directory of uploaded files. Default: `files` in data_dir.")
    files_url: str | None = Field(
        None, description="Keeps uploaded files in S3 instead of files_dir: s3://bucket/prefix."
    )
    files_endpoint: str | None = Field(None, description="URL of the S3 server. Default: Amazon's.")
    webhook_secret: str | None = Field(
        None, description="Secret that signs webhooks: whsec_ followed by 24 to 64 bytes in base64."
    )
    webhook_private: bool | None = Field(
        None,
        description="Whether webhooks may be sent to private addresses. Default: only while the API is bound to "
        "loopback.",
    )
    batch_lines: int = Field(50_000, ge=1, description="Most lines (requests) of one batch.")
    tenant_batch_limit: int = Field(100, ge=0, description="Most open batches of one tenant. 0: unlimited.")
    batch_window: int | None = Field(
        None,
        ge=1,
        description="Most lines of one batch that are jobs at a time, per model. Default: twice the slots of the "
        "model's workers.",
    )
    batch_escalation: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of a model's slots that lines of batches behind their window may use in the tier default. "
        "0: none.",
    )
    batch_lease: float = Field(
        10, gt=0, description="Seconds after which another API process continues a batch whose process has died."
    )
    unary_padding: float = Field(
        30,
        ge=0,
        description="Seconds after which an unfinished response without streaming sends newlines, so that proxies "
        "keep the connection. 0: never.",
    )

    # the worker
    engine: EngineName = Field(
        "llamacpp",
        description="The inference engine. llamacpp: runs a GGUF model on this machine. openai: calls a server "
        "that speaks OpenAI's protocol. vllm: starts vLLM and calls it. simulated: generates counting "
        "tokens, for tests.",
    )
    model: str | None = Field(
        None,
        description="The model that the engine loads: a file, or a name that the engine knows. For the openai engine "
        "one or several names, comma-separated (or the option several times), each with its adapters. Default: the "
        "demo model; for the openai engine every model that the server lists.",
    )
    model_id: str | None = Field(
        None, description="The name by which requests call the (first) model. Default: derived from model."
    )
    model_limit: int = Field(
        32, ge=1, le=512, description="Most models of one engine that a worker serves; each has queues of its own."
    )
    model_aliases: str = Field(
        "",
        description="Further names by which requests may call the model, comma-separated. `alias=id` names another "
        "model of the same engine.",
    )
    model_modalities: str = Field(
        "",
        description="Inputs that the model accepts: comma-separated, of text, image, audio, file. Default: as the "
        "engine reports.",
    )
    engine_url: str | None = Field(None, description="URL of the openai engine's server, up to and including /v1.")
    engine_api_key: str | None = Field(None, description="API key for the openai engine's server.")
    engine_command: str | None = Field(
        None, description="Command that starts the engine's server, with the placeholders {model} and {port} or {uds}."
    )
    engine_args: str = Field("", description="Further arguments for the command that starts the engine's server.")
    engine_continuation: Literal["vllm", "prefill", "none"] | None = Field(
        None,
        description="How the engine's server continues a partial answer after a worker was lost: vllm (by token ids, "
        "or by continue_final_message where it returns none), prefill (the last message is the partial answer), or "
        "none (it starts again). Default: by the engine; vllm where the server says that it is vLLM.",
    )
    engine_omit: str = Field(
        "", description="Request fields that are never sent to the engine's server, comma-separated, such as seed."
    )
    engine_max_tokens: bool = Field(
        False, description="True: the engine's server is sent max_tokens. False: it is sent max_completion_tokens."
    )
    engine_start_timeout: float = Field(
        600, gt=0, description="Seconds within which the engine must load its model and answer."
    )
    concurrency: int | None = Field(
        None, ge=1, description="Requests that the engine works on at a time (slots). Default: by the engine."
    )
    context_length: int | None = Field(
        None,
        ge=16,
        description="Most tokens of one request, prompt and answer together. Default: by the engine and the model.",
    )
    cache_salt: bool = Field(
        True,
        description="True: tenants do not share vLLM's prefix cache (each request is sent a cache_salt of its tenant). "
        "False: they do, which is faster where their prompts begin alike, and lets one find out what another asks.",
    )
    default_max_tokens: int = Field(
        4096,
        ge=0,
        description="Most tokens of an answer where neither the request sets a limit nor the engine tells the model's "
        "context length. 0: no limit.",
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the llamacpp engine. Default: all cores but one."
    )
    gpu_layers: int | None = Field(
        None, description="Layers that the llamacpp engine puts on the GPU. Default: by the engine."
    )
    simulated_tokens: int = Field(
        64, ge=1, description="Simulated engine: tokens of an answer where the request sets no limit."
    )
    simulated_seed: int = Field(0, ge=0, description="Simulated engine: the number from which its tokens count up.")
    simulated_itl_ms: int = Field(0, ge=0, description="Simulated engine: milliseconds between tokens.")
    simulated_ttft_ms: int = Field(0, ge=0, description="Simulated engine: milliseconds until the first token.")
    lease: float = Field(
        30,
        gt=0,
        description="Seconds for which a worker that does not renew its lease keeps its jobs. After that another "
        "worker takes them.",
    )
    max_tries: int = Field(3, ge=1, description="Failed attempts after which a job fails.")
    retry_backoff: float = Field(
        1,
        gt=0,
        description="Seconds before a job's second attempt; doubled for each further one, varied by up to half.",
    )
    quarantine_after: int = Field(
        2, ge=1, description="Workers lost in a row, without any output of the job, after which the job fails."
    )
    reserved_slots: float = Field(
        0.125, ge=0, lt=1, description="Fraction of a worker's slots that jobs of the flex tier never use (0 to 1)."
    )
    flex_patience: float = Field(
        60, ge=0, description="Seconds that flex jobs wait behind higher tiers until one of them is started anyway."
    )
    processes: int = Field(
        1,
        ge=1,
        le=1024,
        description="Number of processes: of `ignite api`; of `ignite worker` only where the engine is a separate "
        "server.",
    )
    drain: float = Field(
        60, ge=0, description="Seconds after SIGTERM in which running jobs and open requests may finish."
    )
    job_log_limit: int = Field(
        64 * 1024 * 1024, ge=64 * 1024, description="Most bytes of one job's answer, streamed or not."
    )
    stall_timeout: float = Field(
        300, gt=0, description="Seconds without output after which an engine's attempt at a job has failed."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port on which a worker serves /metrics and /healthz. 0: a free one. Unset: none.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Address that metrics_port binds to. It is served without a key."
    )

    # all
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="Format of logs. text: for people. json: one JSON object per line. auto: text on a terminal, "
        "otherwise json.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("api_keys")
    @classmethod
    def keys_are_named(cls, value: str) -> str:
        for pair in split_list(value):
            name, _, key = pair.partition("=")
            if key and not is_tenant_name(name):  # Not repeated: it may be a part of a key.
                raise ValueError(f"a name before '=' is not a valid tenant name: {TENANT_RULE}")
            if not name or len(key) < LEAST_KEY or len(set(key)) < LEAST_VARIETY:
                raise ValueError(
                    f"expected name=key pairs, each key at least {LEAST_KEY} characters, {LEAST_VARIETY} of them "
                    "different ('openssl rand -hex 24' makes one)"
                )
        return value

    @field_validator("metrics_key")
    @classmethod
    def metrics_have_a_key(cls, value: str | None) -> str | None:
        if value is not None and (len(value) < LEAST_KEY or len(set(value)) < LEAST_VARIETY):
            raise ValueError(f"expected at least {LEAST_KEY} characters, {LEAST_VARIETY} of them different")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def webhooks_are_signed(cls, value: str | None) -> str | None:
        if value is not None:
            prefix, _, key = value.partition("_")
            if prefix != "whsec" or not 24 <= len(bytes_of(key)) <= 64:
                raise ValueError("expected whsec_ and 24 to 64 bytes in base64")
        return value

    @field_validator("tenant_weights")
    @classmethod
    def weights_are_numbers(cls, value: str) -> str:
        for pair in split_list(value):
            name, _, weight = pair.rpartition("=")
            if not name or not WEIGHT.fullmatch(weight) or float(weight) <= 0:
                raise ValueError("expected name=weight pairs, each weight a number above 0")
            if not is_tenant_name(name):
                raise ValueError(bad_tenant(name))
        return value

    @field_validator("model_id")
    @classmethod
    def model_is_named(cls, value: str | None) -> str | None:
        if value is not None and not is_model_name(value):
            raise ValueError(MODEL_RULE)
        return value

    @field_validator("models", "model_aliases")
    @classmethod
    def models_are_named(cls, value: str) -> str:
        for pair in split_list(value):
            for name in pair.split("=", 1):
                if not is_model_name(name.strip()):
                    raise ValueError(bad_model(name.strip()))
        return value

    @property
    def distributed(self) -> bool:
        return self.amqp_url is not None

    @property
    def keys(self) -> dict[str, str]:
        """The tenants by key."""
        pairs = (pair.partition("=") for pair in split_list(self.api_keys))
        return {key: name for name, _, key in pairs}

    @cached_property
    def weights(self) -> dict[str, float]:
        """The weights by tenant; the default is 1."""
        pairs = (pair.rpartition("=") for pair in split_list(self.tenant_weights))
        return {name: float(weight) for name, _, weight in pairs}

    @property
    def keyless_hosts(self) -> frozenset[str]:
        return frozenset(name.lower() for name in split_list(self.no_auth_hosts))

    @property
    def configured_models(self) -> tuple[str, ...]:
        names = (name.partition("=") for name in split_list(self.models))
        return tuple(dict.fromkeys(model.strip() or alias.strip() for alias, _, model in names))

    @property
    def configured_aliases(self) -> dict[str, str]:
        """The model ids by alias."""
        pairs = (name.partition("=") for name in split_list(self.models))
        return {alias.strip(): model.strip() for alias, _, model in pairs if model.strip()}

    @property
    def webhooks_may_be_private(self) -> bool:
        return self.on_loopback if self.webhook_private is None else self.webhook_private

    @property
    def on_loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def bytes_of(text: str) -> bytes:
    """Decodes base64; returns nothing if `text` is not valid."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return b""


def split_list(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


SECRET = frozenset(
    {
        *("api_keys", "metrics_key", "engine_api_key", "webhook_secret", "engine_command", "engine_args"),
        *("amqp_url", "redis_url", "engine_url", "files_url", "files_endpoint"),
    }
)
"""Settings whose values must not be in messages."""


def load_settings(options: Mapping[str, Any] | None = None) -> Settings:
    """Loads the settings. Options that are None are ignored. Raises SettingsError."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    refuse_unknown_variables()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(explain(error)) from None
    except (PydanticSettingsError, ValueError) as error:
        raise SettingsError(f"{CONFIG_FILE} cannot be read: {error}") from None
    check_agreement(settings)
    return settings


def refuse_unknown_variables() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(PREFIX) and not name.startswith(FOR_TESTS) and name not in known | FOR_CLIENTS:
            raise SettingsError(f"{name} is set, but there is no such setting.")


def explain(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{CONFIG_FILE} sets {name!r}, but there is no such setting."
    found = "not as it should be" if name in SECRET else shown(str(problem["input"]))
    return f"The setting {name} ({PREFIX}{name.upper()}) is {found}: {problem['msg'].removeprefix('Value error, ')}."


def check_agreement(settings: Settings) -> None:
    """Checks the rules between settings."""
    check_no_auth(settings)
    if (settings.amqp_url is None) != (settings.redis_url is None):
        given, missing = ("amqp", "redis") if settings.amqp_url else ("redis", "amqp")
        raise SettingsError(
            f"{PREFIX}{given.upper()}_URL is set and {PREFIX}{missing.upper()}_URL is not: "
            "set both (RabbitMQ and Redis), or neither (embedded)."
        )
    if settings.engine_api_key and "@" in (settings.engine_url or ""):
        raise SettingsError(
            "engine_url has a user or a password in it and engine_api_key is set: a server takes one of the two."
        )
    for name, urls, schemes in (
        ("amqp_url", split_list(settings.amqp_url or ""), ("amqp", "amqps")),
        ("redis_url", split_list(settings.redis_url or ""), ("redis", "rediss", "unix")),
        ("engine_url", [settings.engine_url], ("http", "https", "unix")),
        ("files_url", [settings.files_url], ("s3",)),
        ("files_endpoint", [settings.files_endpoint], ("http", "https")),
    ):
        for url in urls:
            if url is not None and (fault := fault_of_url(name, url, schemes)) is not None:
                raise SettingsError(f"The setting {name} ({PREFIX}{name.upper()}) {fault}.")


def check_no_auth(settings: Settings) -> None:
    if not settings.no_auth:
        return
    if settings.keys:
        raise SettingsError(
            "no_auth serves every call without a key, and api_keys is set: take one of the two settings out."
        )
    if not (settings.on_loopback or settings.no_auth_anywhere):
        raise SettingsError(
            f"no_auth makes every caller an operator, and {settings.host} is not a loopback address: "
            "bind to 127.0.0.1, use keys, or set no_auth_anywhere as well."
        )
