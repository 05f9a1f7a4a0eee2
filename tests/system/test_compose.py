"""Checks of docker-compose.yml without a Docker engine."""

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from shared.backends.redis.connection.server import open_server
from shared.errors import BackendUnavailable
from tests.support import rabbitmq, redis
from tests.support.redis import find_redis
from tests.support.run_process import run_process
from tests.support.server import free_ports

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = YAML(typ="safe").load(COMPOSE_FILE)["services"]
OPEN = ["127.0.0.1:8000:8000", "127.0.0.1:50051:50051"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def test_it_is_valid_by_the_compose_specification() -> None:
    check = ("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE))

    done = _python_module(*check)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", OURS)
def test_each_command_and_option_is_one_that_ignite_has(name: str) -> None:
    command, *arguments = OURS[name]["command"]

    done = _python_module("ignite", command, "--help")

    assert done.returncode == 0, done.stderr
    for option in (each for each in arguments if each.startswith("--")):
        assert re.search(rf"{option}\b", done.stdout), f"ignite {command} has no {option}:\n{done.stdout}"


@pytest.mark.parametrize("name", OURS)
def test_each_build_target_is_a_stage_of_the_dockerfile(name: str) -> None:
    stages = re.findall(r"^FROM .* AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert OURS[name]["build"]["target"] in stages


@pytest.mark.parametrize("name", SERVICES)
def test_only_the_api_is_published_and_to_this_machine_alone(name: str) -> None:
    assert SERVICES[name].get("ports", []) == (OPEN if name == "api" else [])


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    assert re.search(r":\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_the_tests_run_on_the_same_servers() -> None:
    assert {SERVICES["rabbitmq"]["image"], SERVICES["redis"]["image"]} == {rabbitmq.IMAGE, redis.IMAGE}


@pytest.mark.parametrize("name", OURS)
def test_every_server_is_reached_with_a_password(name: str) -> None:
    for server in ("IGNITE_AMQP_URL", "IGNITE_REDIS_URL"):
        assert re.search(r":\$\{\w+_PASSWORD:-\w+\}@", OURS[name]["environment"][server])


async def test_redis_starts_with_its_password_and_does_not_show_it(tmp_path: Path) -> None:
    """Runs the unchanged command, except for its file paths."""
    if (launcher := find_redis()) is None:
        pytest.skip("redis-server is not installed")
    (port,) = free_ports(1)
    shell, option, script = SERVICES["redis"]["command"]
    script = script.replace("$$", "$").replace("/tmp/", f"{tmp_path}/").replace("--dir /data", f"--dir {tmp_path}")
    script = script.replace("exec redis-server", f"exec {launcher}") + f" --port {port}"
    env = {"REDISCLI_AUTH": "pa55 of redis"}
    async with run_process(shell, option, script, env=env, ready="Ready to accept connections") as server:
        assert b"pa55" not in command_line_of(server.pid)
        with pytest.raises(BackendUnavailable, match="user or the password"):
            await open_server(f"redis://127.0.0.1:{port}/0")
        await (await open_server(f"redis://:pa55%20of%20redis@127.0.0.1:{port}/0")).close()
    assert stat.S_IMODE((tmp_path / "redis.conf").stat().st_mode) == 0o600


def command_line_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _python_module(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
