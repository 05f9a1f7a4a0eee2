"""docker-compose.yml, as far as it can be judged without a Docker engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

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


def _python_module(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
