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
"""Characters of a key in `api_keys`, and how many of them differ: fewer can be guessed, or are a word."""

FOR_TESTS = "IGNITE_TEST_"
FOR_CLIENTS = frozenset({"IGNITE_URL", "IGNITE_API_KEY"})
"""What `ignite jobs` reads: not settings of a process."""


EngineName = Literal["llamacpp", "openai", "vllm", "simulated"]


class SettingsError(Exception):
    """One sentence about a setting that cannot be used."""


class Settings(BaseSettings):
    """Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=CONFIG_FILE, extra="forbid", frozen=True, env_ignore_empty=True
    )

    # the backend
    amqp_url: str | None = Field(
        None, description="RabbitMQ, a cluster's nodes separated by commas; with redis_url: the distributed backend"
    )
    redis_url: str | None = Field(
        None,
        description="Redis, or nodes of a Redis Cluster separated by commas; with amqp_url: the distributed backend",
    )
    redis_eviction: bool = Field(
        False, description="whether a Redis that evicts keys when it is full (maxmemory-policy) is used all the same"
    )
    data_dir: Path = Field(Path("ignite-data"), description="the embedded backend's files")
    queue_limit: int = Field(100_000, ge=1, description="jobs that may wait in one queue before submits are refused")
    queue_token_limit: int = Field(0, ge=0, description="the same in tokens, as estimated; 0: any number")
    tenant_queue_limit: int = Field(
        20_000, ge=0, description="jobs of one tenant that may wait in one queue; 0: any number"
    )
    tenant_store_limit: int | None = Field(
        None,
        ge=0,
        description="bytes of requests, streams and results that a tenant may keep in the store; 0: any number; "
        "None: a quarter of Redis's maxmemory, or 2 GiB",
    )
    fairness: bool = Field(True, description="tenants take turns in a queue, by tokens; off: in the order of arrival")
    tenant_weights: str = Field("", description="comma-separated name=weight pairs: tenants whose share is not 1")
    consumer_timeout: float = Field(1800, gt=0, description="what RabbitMQ before 3.12 has been told by that name")

    # the API
    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 takes a free one")
    grpc: bool = Field(True, description="whether gRPC is served beside HTTP")
    grpc_port: int = Field(50051, ge=0, le=65535, description="port to bind for gRPC; 0 takes a free one")
    grpc_connections: int = Field(1000, ge=1, description="connections that gRPC takes at a time")
    grpc_streams: int = Field(1000, ge=1, description="calls that one gRPC connection may have open; more wait")
    grpc_calls: int = Field(10_000, ge=2, description="calls that gRPC has open at a time; one tenant has half of that")
    grpc_receive_memory: int = Field(
        160 * 1024 * 1024, ge=1024, description="of messages that gRPC reads at a time, each counted as body_limit"
    )
    grpc_receive_timeout: float = Field(30, gt=0, description="for a message to come in whole over gRPC")
    api_keys: str = Field("", description="comma-separated name=key pairs, beside the keys that 'ignite keys' makes")
    metrics_key: str | None = Field(
        None, description="a key that reads /metrics and nothing else, beside operators' keys"
    )
    no_auth: bool | None = Field(
        None,
        description="serve calls without a key, as an operator; None: in `ignite up` on its own files and loopback, "
        "until the first key is made",
    )
    no_auth_anywhere: bool = Field(False, description="allow no_auth on an address that is not loopback")
    no_auth_hosts: str = Field(
        "", description="comma-separated host names, beside loopback's, that no_auth takes in Host and Origin"
    )
    head_limit: int = Field(64 * 1024, ge=1024, description="largest head of an HTTP request")
    connection_limit: int = Field(
        10_000, ge=1, description="HTTP connections of one process; fewer where its descriptors do not suffice"
    )
    address_connection_limit: int = Field(
        8_000, ge=1, description="the same from one address; at most four fifths of all"
    )
    tenant_call_limit: int = Field(
        8_000, ge=1, description="requests of one tenant that a process serves at a time; at most four fifths of all"
    )
    head_timeout: float = Field(30, gt=0, description="for an HTTP request's head to come in, from its first byte")
    body_timeout: float = Field(30, gt=0, description="without a byte of a request's body that is not complete")
    idle_timeout: float = Field(75, gt=0, description="until a kept HTTP connection without a request is closed")
    write_timeout: float = Field(60, gt=0, description="until a client that takes nothing of its answer is cut")
    body_limit: int = Field(20 * 1024 * 1024, ge=1024, description="largest request body")
    body_budget: int = Field(
        256 * 1024 * 1024, ge=1024, description="bytes of request bodies that one API process holds at a time"
    )
    media_urls: Literal["data", "https", "any"] = Field(
        "https",
        description="what images of requests may be: data (data: URLs), https (and public https URLs), any",
    )
    engine_fields: str = Field(
        "", description="comma-separated engine fields that are refused otherwise, such as chat_template; *: all"
    )
    tenant_body_budget: int = Field(128 * 1024 * 1024, ge=1024, description="the same for one tenant")
    answer_token_limit: int = Field(
        1_000_000,
        ge=0,
        description="most tokens that a request may ask for: max_completion_tokens times n; 0: any number",
    )
    models: str = Field(
        "", description="comma-separated model ids that are served even while no worker is up; alias=id names one anew"
    )
    worker_patience: float = Field(
        600,
        ge=0,
        description="how long jobs for a model that is not in models are taken after its last worker was seen",
    )
    job_deadline: float = Field(86_400, gt=0, description="a job's deadline where the client sets none")
    retention: float = Field(3_600, gt=0, description="how long a finished call's record and log are kept")
    job_retention: float = Field(86_400, gt=0, description="the same for jobs that were asked for as such")
    store_retention: float = Field(30 * 86_400, gt=0, description="the same for completions with `store: true`")
    keepalive: float = Field(10, gt=0, description="between keep-alives of a quiet stream")
    sweep: float = Field(60, gt=0, description="between searches for jobs that the broker has lost")
    file_limit: int = Field(512 * 1024 * 1024, ge=1, description="largest file that may be uploaded")
    tenant_file_limit: int = Field(
        10 * 1024**3, ge=0, description="bytes that a tenant's files may have, with 64 KiB more for each; 0: any number"
    )
    file_retention: float = Field(
        30 * 86_400, gt=0, description="how long a file is kept where its client does not say, and a batch"
    )
    files_dir: Path | None = Field(None, description="where files are kept; None: 'files' in data_dir")
    files_url: str | None = Field(None, description="s3://bucket/prefix: files are kept there instead")
    files_endpoint: str | None = Field(None, description="the S3 server's URL; None: Amazon's")
    webhook_secret: str | None = Field(None, description="signs webhooks: whsec_ and 24 to 64 bytes in base64")
    webhook_private: bool | None = Field(
        None, description="whether webhooks may go to private addresses; None: while bound to loopback"
    )
    batch_lines: int = Field(50_000, ge=1, description="most lines of one batch")
    tenant_batch_limit: int = Field(
        100, ge=0, description="batches of a tenant that may be open at a time; 0: any number"
    )
    batch_window: int | None = Field(
        None,
        ge=1,
        description="lines of a batch that are jobs at a time, of each model; None: twice its workers' slots",
    )
    batch_lease: float = Field(10, gt=0, description="how long a batch waits when the API process that ran it has died")
    unary_padding: float = Field(30, ge=0, description="until a waiting unary answer sends newlines; 0: it never does")

    # the worker
    engine: EngineName = Field("llamacpp", description="what generates")
    model: str | None = Field(None, description="what the engine loads; None: the demo model")
    model_id: str | None = Field(None, description="the name it is served under")
    model_aliases: str = Field("", description="comma-separated other names that requests may call it by")
    model_modalities: str = Field(
        "", description="what the model takes: comma-separated text, image, audio, file; empty: as the engine tells"
    )
    engine_url: str | None = Field(None, description="the openai engine's server, up to and including /v1")
    engine_api_key: str | None = Field(None, description="the key for that server")
    engine_command: str | None = Field(None, description="serving command with {model} and {port} or {uds}")
    engine_args: str = Field("", description="more arguments for the serving command")
    engine_continuation: Literal["vllm", "prefill", "none"] | None = Field(
        None, description="how the engine's server goes on after a partial answer; None: as the engine is known to"
    )
    engine_omit: str = Field(
        "", description="comma-separated request fields that the engine's server is never sent, such as seed"
    )
    engine_max_tokens: bool = Field(
        False, description="whether the engine's server knows max_tokens and not max_completion_tokens"
    )
    engine_start_timeout: float = Field(600, gt=0, description="for the engine to load and answer")
    concurrency: int | None = Field(None, ge=1, description="requests the engine works on at once")
    context_length: int | None = Field(None, ge=16, description="tokens per request")
    threads: int | None = Field(None, ge=1, description="threads of the llamacpp engine")
    gpu_layers: int | None = Field(None, description="layers that the llamacpp engine puts on the GPU")
    simulated_tokens: int = Field(64, ge=1, description="the simulated engine: tokens where the request sets none")
    simulated_seed: int = Field(0, ge=0, description="the simulated engine: the token it counts up from")
    simulated_itl_ms: int = Field(0, ge=0, description="the simulated engine: milliseconds between tokens")
    simulated_ttft_ms: int = Field(0, ge=0, description="the simulated engine: milliseconds to the first token")
    lease: float = Field(30, gt=0, description="how long a silent worker keeps its jobs")
    max_tries: int = Field(3, ge=1, description="failed attempts before a job has failed")
    retry_backoff: float = Field(1, gt=0, description="before the second try; doubles with each, give or take a half")
    quarantine_after: int = Field(
        2, ge=1, description="workers lost in a row before a job that said nothing has failed"
    )
    reserved_slots: float = Field(0.125, ge=0, lt=1, description="share of a worker's slots that flex jobs never take")
    flex_patience: float = Field(60, ge=0, description="how long flex waits behind higher tiers until it has a turn")
    processes: int = Field(
        1, ge=1, le=1024, description="of `ignite api`, and of `ignite worker` if its engine is elsewhere"
    )
    drain: float = Field(60, ge=0, description="for finishing what is held after SIGTERM")
    job_log_limit: int = Field(
        64 * 1024 * 1024, ge=64 * 1024, description="bytes that one job's answer may have, as a stream or as a whole"
    )
    stall_timeout: float = Field(300, gt=0, description="an engine that says nothing for so long has failed")

    # all
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, else JSON lines")

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
                raise ValueError(f"a name before '=' is no name of a tenant: {TENANT_RULE}")
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
        """Key → the name of its tenant."""
        pairs = (pair.partition("=") for pair in split_list(self.api_keys))
        return {key: name for name, _, key in pairs}

    @cached_property
    def weights(self) -> dict[str, float]:
        """Tenant → its share beside those whose share is 1."""
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
        """Alias → model id."""
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
    """What `text` says in base64; nothing where it is none."""
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
"""Settings that no message repeats."""


def load_settings(options: Mapping[str, Any] | None = None) -> Settings:
    """Options that are None count as not given. Raises SettingsError."""
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
    """The rules that span settings."""
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
