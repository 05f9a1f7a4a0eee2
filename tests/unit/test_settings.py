"""Options before the environment before the file; whatever is wrong stops the start with one sentence."""

import os
from pathlib import Path

import pytest

from shared.names import is_model_name
from shared.setting_urls import without_password
from shared.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty directory, and an environment without ours. The file is named relative to the directory."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("IGNITE_")]:
        monkeypatch.delenv(name)
    return tmp_path


def write(text: str) -> None:
    Path("ignite.toml").write_text(text)


def refusal(**options: object) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(options)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_without_any_it_is_one_process_on_loopback() -> None:
    settings = load_settings()
    assert not settings.distributed
    assert (settings.host, settings.on_loopback, settings.engine) == ("127.0.0.1", True, "llamacpp")


def test_options_come_before_the_environment_and_that_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("port = 1\nqueue_limit = 1\nkeepalive = 1\n")
    monkeypatch.setenv("IGNITE_PORT", "2")
    monkeypatch.setenv("IGNITE_QUEUE_LIMIT", "2")
    settings = load_settings({"port": 3, "queue_limit": None})
    assert (settings.port, settings.queue_limit, settings.keepalive) == (3, 2, 1)


def test_an_option_may_be_text_as_the_command_line_gives_it() -> None:
    assert load_settings({"port": "9000", "lease": "1.5"}).port == 9000


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGNITE_AMQP_URL", "")
    assert load_settings().amqp_url is None


def test_lists_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGNITE_API_KEYS", "alice=secret-of-alice-4711, bob=secret-of-bob-4711=2 ,")
    settings = load_settings({"models": " a, b ,"})
    assert settings.keys == {"secret-of-alice-4711": "alice", "secret-of-bob-4711=2": "bob"}
    assert settings.configured_models == ("a", "b")


# ── refusals ──


def test_an_unknown_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGNITE_PROT", "1")
    assert "IGNITE_PROT" in refusal()


def test_variables_for_tests_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IGNITE_TEST_ANYTHING", "1")
    assert load_settings()


def test_an_unknown_line_in_the_file() -> None:
    write("prot = 1\n")
    sentence = refusal()
    assert "prot" in sentence
    assert "ignite.toml" in sentence


def test_a_file_that_is_no_toml() -> None:
    write("port = = 1\n")
    assert "ignite.toml" in refusal()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "http"),
        ("port", "70000"),
        ("queue_limit", "0"),
        ("keepalive", "0"),
        ("unary_padding", "-1"),
        ("engine", "magic"),
        ("log_level", "loud"),
        ("api_keys", "alice"),
        ("api_keys", "alice=short"),
        ("api_keys", "alice=fifteen-letters"),
        ("api_keys", "alice=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("api_keys", "alice=12121212121212121212"),
        ("api_keys", "=a-key-that-is-long-enough"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, value: str) -> None:
    sentence = refusal(**{name: value})
    assert name in sentence
    assert f"IGNITE_{name.upper()}" in sentence


@pytest.mark.parametrize(("given", "missing"), [("amqp", "redis"), ("redis", "amqp")])
def test_one_url_without_the_other(given: str, missing: str) -> None:
    sentence = refusal(**{f"{given}_url": f"{given}://localhost"})
    assert f"IGNITE_{given.upper()}_URL is set" in sentence
    assert f"IGNITE_{missing.upper()}_URL is not" in sentence


@pytest.mark.parametrize(
    ("name", "url"), [("amqp_url", "http://x"), ("redis_url", "localhost:6379"), ("engine_url", "ftp://x")]
)
def test_a_url_of_another_kind(name: str, url: str) -> None:
    urls = {"amqp_url": "amqp://x", "redis_url": "redis://x"} | {name: url}
    assert name in refusal(**urls)


SECRET = "S3cr"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("redis_url", "redis://:S3cr/et#pw@h:6379/0"),
        ("redis_url", "redis://:S3cr?et@h:6379/0"),
        ("redis_url", "redis://:S3cr@et@h:6379/0"),
        ("redis_url", "redis://:S3cr,et@h:6379/0"),
        ("redis_url", "redis://:S3cr@h:port/0"),
        ("redis_url", "redis://:S3cr@h:6379/jobs"),
        ("redis_url", "redis://:S3cr@/0"),
        ("redis_url", ":S3cr@h"),
        ("redis_url", "redis://:S3cr@[::1/0"),
        ("amqp_url", "amqp://u:S3cr#et@h/"),
        ("amqp_url", "amqp://u:S3cr/et@h/v"),
        ("amqp_url", "amqp://u:S3cr@h:99999/v"),
        ("amqp_url", "https://u:S3cr@h/v"),
        ("engine_url", "http://u:S3cr/et@h/v1"),
        ("engine_url", "u:S3cr@h/v1"),
        ("files_endpoint", "http://u:S3cr#et@h"),
    ],
)
def test_a_url_with_a_password_is_not_repeated(name: str, url: str) -> None:
    urls = {"amqp_url": "amqp://x", "redis_url": "redis://x"} | {name: url}
    sentence = refusal(**urls)
    assert name in sentence and SECRET not in sentence and "et" not in sentence.replace("setting", "").split()


@pytest.mark.parametrize("value", ["S3cr=et", "S3cr et=long-enough-to-be-a-key-0", "alice=long-enough-0123456,S3cr"])
def test_keys_are_not_repeated(value: str) -> None:
    assert SECRET not in refusal(api_keys=value)


@pytest.mark.parametrize(
    "urls",
    [
        {"amqp_url": "amqps://u:p%2F%23%40w@h:5671/v?heartbeat=5", "redis_url": "rediss://u:p%2Fw@h:6380/15"},
        {"amqp_url": "amqp://h1,amqp://h2:1/v", "redis_url": "redis://h1:1,redis://h2:2"},
        {"amqp_url": "amqp://[::1]:5672/%2f", "redis_url": "unix:///run/redis.sock?db=1"},
        {"engine_url": "unix:/run/engine.sock"},
        {"engine_url": "http://me:p%40ss@gpu-7:8000/v1"},
        {"files_url": "s3://bucket/prefix", "files_endpoint": "http://minio:9000"},
    ],
)
def test_urls_that_are_well_are_taken(urls: dict[str, str]) -> None:
    assert load_settings(urls)


def test_an_engine_has_a_password_or_a_key() -> None:
    assert "engine_api_key" in refusal(engine_url="http://me:S3cr@h/v1", engine_api_key="S3cr-of-the-engine")


def test_a_url_is_shown_without_its_password() -> None:
    assert without_password("amqp://me:p@ss@host:1/v") == "amqp://me@host:1/v"
    assert without_password("redis://:p@host") == "redis://@host"
    assert without_password("http://host/v1") == "http://host/v1"


# ── names ──

BAD_MODELS = [
    "{a}:b/../c d",
    "a" * 300,
    "a b",
    "a//b",
    "a/",
    "../a",
    "a/.hidden",
    "a\nb",
    'a"b',
    "a\\b",
    "a%2Fb",
    "",
    "ü",
]
GOOD_MODELS = [
    "Qwen/Qwen3-0.6B",
    "org/name:tag@rev",
    "llama3.1:8b-instruct-q4_K_M",
    "/models/a",
    "gpt-4o",
    "ft:gpt:x::1",
]


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_name_of_a_model(name: str) -> None:
    sentence = refusal(model_id=name)
    assert "model_id" in sentence and len(sentence) < 400
    assert not is_model_name(name)
    if name:
        assert "models" in refusal(models=f"fine,alias={name}")
        assert "model_aliases" in refusal(model_aliases=name)


@pytest.mark.parametrize("name", GOOD_MODELS)
def test_a_good_name_of_a_model(name: str) -> None:
    settings = load_settings({"model_id": name, "models": f"alias={name}", "model_aliases": name})
    assert settings.configured_models == (name,)


@pytest.mark.parametrize("name", ["a b", "-a", "a" * 65, "ü", "a/b", "a{}", "a:b"])
def test_a_bad_name_of_a_tenant(name: str) -> None:
    assert "api_keys" in refusal(api_keys=f"{name}=long-enough-to-be-a-key-0")
    assert "tenant_weights" in refusal(tenant_weights=f"{name}=2")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "localhost.example.org", "127.example.org"])
def test_others_reach_a_public_address(host: str) -> None:
    assert not load_settings({"host": host}).on_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_nobody_else_reaches_loopback(host: str) -> None:
    assert load_settings({"host": host}).on_loopback


def test_without_keys_is_for_loopback_and_for_servers_without_any() -> None:
    assert load_settings({"no_auth": "true"}).no_auth is True
    assert "not a loopback address" in refusal(no_auth="true", host="0.0.0.0")
    assert load_settings({"no_auth": "true", "host": "0.0.0.0", "no_auth_anywhere": "true"}).no_auth
    assert "api_keys is set" in refusal(no_auth="true", api_keys="alice=secret-of-alice-4711")
    assert load_settings({"no_auth": "false", "host": "0.0.0.0"}).no_auth is False


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
