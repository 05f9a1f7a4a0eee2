"""The manifests in deploy/ speak of settings, metrics and times that are there."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from ruamel.yaml import YAML

import producer.metrics  # noqa: F401  (what it registers is looked for here)
from shared.settings import PREFIX, Settings
from worker.consumer import HAND_BACK_SECONDS

FILES = sorted(Path("deploy/kubernetes").glob("*.yaml"))


def documents() -> list[dict[str, Any]]:
    return [document for file in FILES for document in YAML(typ="safe").load_all(file.read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [document for document in documents() if document["kind"] == kind]
    assert found, kind
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_variable_is_a_setting(file: Path) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}[A-Z_]+", file.read_text())) <= known


def test_a_pod_has_longer_than_its_process_takes_to_drain() -> None:
    (config,) = of_kind("ConfigMap")
    drain = float(config["data"]["IGNITE_DRAIN"])
    for deployment in of_kind("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > drain + HAND_BACK_SECONDS


def test_workers_are_scaled_by_metrics_that_there_are() -> None:
    told = {metric.name for metric in REGISTRY.collect()}
    for scaled in of_kind("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            asked = set(re.findall(r"ignite_\w+", trigger["metadata"]["query"]))
            assert asked and asked <= told


def test_what_is_referred_to_is_there() -> None:
    names = {(document["kind"], document["metadata"]["name"]) for document in documents()}
    for deployment in of_kind("Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        for source in container["envFrom"]:
            for reference, target in source.items():
                kind = {"configMapRef": "ConfigMap", "secretRef": "Secret"}[reference]
                assert (kind, target["name"]) in names
    for scaler in (*of_kind("HorizontalPodAutoscaler"), *of_kind("ScaledObject")):
        assert ("Deployment", scaler["spec"]["scaleTargetRef"]["name"]) in names
