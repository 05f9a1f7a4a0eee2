"""Options before the environment before the file; whatever is wrong stops the start with one sentence."""

import os
from pathlib import Path

import pytest

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
