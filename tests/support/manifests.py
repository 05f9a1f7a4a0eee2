"""Reads the manifests of deploy/kubernetes."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

FILES = sorted((Path(__file__).parents[2] / "deploy" / "kubernetes").glob("*.yaml"))


def documents() -> list[dict[str, Any]]:
    return [document for file in FILES for document in YAML(typ="safe").load_all(file.read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [document for document in documents() if document["kind"] == kind]
    assert found, kind
    return found


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    return deployment["spec"]["template"]["spec"]


def container_of(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(deployment)["containers"]
    return container
