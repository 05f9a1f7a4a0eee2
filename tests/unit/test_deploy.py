"""The manifests in deploy/ are valid, and speak of settings, metrics, users and times that are there."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kubernetes_validate import ValidationError, latest_version, validate
from prometheus_client import REGISTRY

import producer.metrics  # noqa: F401  (what it registers is looked for here)
from ignite import __version__ as VERSION
from ignite.cli import cli
from ignite.running import CLOSING
from shared.settings import PREFIX, Settings, load_settings
from tests.support.manifests import FILES, container_of, documents, of_kind, pod_of
from worker.worker import REQUEUE_SECONDS

OLDEST = "1.25"
"""Of the Kubernetes versions that the manifests are for."""

OTHERS = {"keda.sh/v1alpha1"}
"""What Kubernetes itself has no schema of."""

DOCKERFILE = Path("Dockerfile").read_text()

Document = dict[str, Any]
deployments = pytest.mark.parametrize("deployment", of_kind("Deployment"), ids=lambda each: each["metadata"]["name"])


@pytest.mark.parametrize("version", [OLDEST, latest_version()])
def test_kubernetes_takes_them(version: str) -> None:
    ours = [document for document in documents() if document["apiVersion"] not in OTHERS]
    assert {document["kind"] for document in ours} > {"Deployment", "Service", "PodDisruptionBudget"}
    for document in ours:
        assert version.startswith(validate(document, version, strict=True))


def misspell(pod: Document) -> None:
    pod["terminationGracePeriod"] = pod.pop("terminationGracePeriodSeconds")


def misplace(pod: Document) -> None:
    pod["containers"][0]["runAsUser"] = 10001


def mistype(pod: Document) -> None:
    pod["containers"][0]["env"] = [{"name": "IGNITE_PORT", "value": 8000}]


@pytest.mark.parametrize("mistake", [misspell, misplace, mistype])
def test_a_mistake_would_be_found(mistake: Callable[[Document], None]) -> None:
    deployment = of_kind("Deployment")[0]
    mistake(pod_of(deployment))
    with pytest.raises(ValidationError):
        validate(deployment, latest_version(), strict=True)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_variable_is_a_setting(file: Path) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    described = re.sub("#.*", "", file.read_text())
    assert set(re.findall(rf"{PREFIX}[A-Z_]+", described)) <= known


@deployments
def test_a_process_takes_its_arguments_and_its_environment(
    deployment: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = container_of(deployment)
    for name, value in environment_of(container).items():
        monkeypatch.setenv(name, value)
    assert load_settings().distributed
    name, *options = container["args"]
    with cli.commands[name].make_context(name, options):
        pass


@deployments
def test_a_pod_is_told_nothing_after_the_services(deployment: Document) -> None:
    """Kubernetes would set IGNITE_API_PORT and others after the Service ignite-api: no settings, and so no start."""
    assert pod_of(deployment)["enableServiceLinks"] is False


@deployments
def test_a_pod_has_longer_than_its_process_takes_to_drain(deployment: Document) -> None:
    (config,) = of_kind("ConfigMap")
    before = seconds_of_pre_stop(container_of(deployment))
    drain = float(config["data"]["IGNITE_DRAIN"])
    assert pod_of(deployment)["terminationGracePeriodSeconds"] > before + drain + REQUEUE_SECONDS + CLOSING


@deployments
def test_a_pod_is_not_root_and_the_image_has_its_user(deployment: Document) -> None:
    security = pod_of(deployment)["securityContext"]
    user, group = security["runAsUser"], security["runAsGroup"]
    assert security["runAsNonRoot"] and user and group
    assert users_of_stages()[container_of(deployment)["image"]] == f"{user}:{group}"
    own = container_of(deployment)["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}


@deployments
def test_a_pods_needs_are_told(deployment: Document) -> None:
    resources = container_of(deployment)["resources"]
    assert set(resources["requests"]) >= {"cpu", "memory"}
    assert "memory" in resources["limits"]


@deployments
def test_a_deployment_is_disrupted_little_by_little(deployment: Document) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    guards = [each for each in of_kind("PodDisruptionBudget") if each["spec"]["selector"]["matchLabels"] == labels]
    assert len(guards) == 1


def test_who_is_scaled_has_no_number_of_its_own() -> None:
    """Applied again, it would take a fleet that has grown back to that number."""
    scaled = {
        scaler["spec"]["scaleTargetRef"]["name"]
        for scaler in (*of_kind("HorizontalPodAutoscaler"), *of_kind("ScaledObject"))
    }
    for deployment in of_kind("Deployment"):
        assert deployment["metadata"]["name"] in scaled
        assert "replicas" not in deployment["spec"]


def test_workers_are_scaled_by_metrics_that_there_are() -> None:
    told = {metric.name for metric in REGISTRY.collect()}
    for scaled in of_kind("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            asked = set(re.findall(r"ignite_\w+", trigger["metadata"]["query"]))
            assert asked and asked <= told


def test_what_is_referred_to_is_there() -> None:
    names = {(document["kind"], document["metadata"]["name"]) for document in documents()}
    for deployment in of_kind("Deployment"):
        for source in container_of(deployment)["envFrom"]:
            for reference, target in source.items():
                kind = {"configMapRef": "ConfigMap", "secretRef": "Secret"}[reference]
                assert (kind, target["name"]) in names
        mounted = {mount["name"] for mount in container_of(deployment).get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod_of(deployment).get("volumes", ())}
    for scaler in (*of_kind("HorizontalPodAutoscaler"), *of_kind("ScaledObject")):
        assert ("Deployment", scaler["spec"]["scaleTargetRef"]["name"]) in names


def test_selectors_and_ports_lead_to_pods() -> None:
    pods = [deployment["spec"]["template"] for deployment in of_kind("Deployment")]
    for service in of_kind("Service"):
        (pod,) = [pod for pod in pods if pod["metadata"]["labels"] == service["spec"]["selector"]]
        open_ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= open_ports
    for deployment in of_kind("Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels


def test_a_worker_has_what_it_needs_and_no_other_secret() -> None:
    workers = [each for each in of_kind("Deployment") if container_of(each)["args"][0] == "worker"]
    assert workers
    for deployment in workers:
        found = environment_of(container_of(deployment))
        assert {"IGNITE_AMQP_URL", "IGNITE_REDIS_URL"} <= found.keys()
        assert not [name for name in found if re.search("KEY|SECRET|TOKEN", name)], found


def test_every_server_has_a_password() -> None:
    (servers,) = [each for each in of_kind("Secret") if each["metadata"]["name"] == "ignite-servers"]
    for url in servers["stringData"].values():
        assert urlsplit(url).password


def test_nobody_reaches_what_is_not_meant_for_them() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind("NetworkPolicy")}
    assert policies["ignite-nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for deployment in of_kind("Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        (policy,) = [each for each in policies.values() if each["podSelector"].get("matchLabels") == labels]
        ports = {port["port"] for rule in policy.get("ingress", ()) for port in rule["ports"]}
        assert ports == {port["name"] for port in container_of(deployment).get("ports", ())}


@pytest.mark.parametrize("deployment", of_kind("Deployment"), ids=lambda each: each["metadata"]["name"])
def test_images_are_pinned(deployment: Document) -> None:
    assert re.search(r":\d+\.\d+", container_of(deployment)["image"])


def test_what_images_are_built_from_is_pinned() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        name = base.replace("${", "{").format(**arguments) if "${" in base else base
        assert re.search(r":v?\d+\.\d+\.\d+", name), name
    for tool in re.findall(r"pip install .*", DOCKERFILE):
        assert "==${UV_VERSION}" in tool
    assert f"UV_VERSION={arguments['UV_VERSION']}" in Path("scripts/uv.sh").read_text()


# ── what the manifests and the Dockerfile say ──


def environment_of(container: Document) -> Mapping[str, str]:
    (config,) = of_kind("ConfigMap")
    secrets = [each["stringData"] for each in of_kind("Secret") if each["metadata"]["name"] in secrets_of(container)]
    own = {variable["name"]: variable["value"] for variable in container.get("env", ())}
    found = dict(config["data"])
    for each in (*secrets, own):
        found |= each
    return found


def secrets_of(container: Document) -> set[str]:
    return {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}


def seconds_of_pre_stop(container: Document) -> float:
    match container.get("lifecycle"):
        case None:
            return 0.0
        case {"preStop": {"exec": {"command": ["sleep", seconds]}}}:
            return float(seconds)
        case other:
            raise AssertionError(f"how long does {other} take?")


def users_of_stages() -> Mapping[str, str]:
    """The last USER of each target, by the image that the manifests call it."""
    _, *parts = re.split(r"^FROM .* AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    stages = dict(zip(parts[::2], parts[1::2], strict=True))
    users = {name: re.findall(r"^USER (\S+)$", text, re.MULTILINE) for name, text in stages.items()}
    images = {f"dodil-ignite:{VERSION}": "ignite", f"dodil-ignite-worker-gpu:{VERSION}": "worker-gpu"}
    return {image: users[target][-1] for image, target in images.items()}
