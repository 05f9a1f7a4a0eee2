"""The API provides the paths and metrics that deploy/kubernetes uses."""

import re
from typing import Any

import pytest

from tests.producer.api import embedded_api
from tests.support.manifests import container_of, of_kind

KEY = "a-key-for-metrics-alone"
PROBES = ("readinessProbe", "livenessProbe")


def probed() -> list[str]:
    containers = [container_of(deployment) for deployment in of_kind("Deployment")]
    return [each[probe]["httpGet"]["path"] for each in containers for probe in PROBES if probe in each]


async def test_probes_need_no_key() -> None:
    assert len(probed()) == len(PROBES)
    async with embedded_api(api_keys="me=a-long-key-of-mine") as api:
        for path in probed():
            assert (await api.get(path)).status == 200


def selectors() -> list[tuple[str, dict[str, str]]]:
    """Returns the metrics of the ScaledObjects, each with its label selectors."""
    triggers = [trigger for scaled in of_kind("ScaledObject") for trigger in scaled["spec"]["triggers"]]
    found = [each for trigger in triggers for each in re.findall(r"(ignite_\w+){(.*?)}", trigger["metadata"]["query"])]
    return [(name, dict(re.findall(r'(\w+)="(.*?)"', labels))) for name, labels in found]


@pytest.mark.parametrize(("metric", "labels"), selectors())
async def test_the_metrics_for_scaling_exist_without_a_worker(metric: str, labels: dict[str, Any]) -> None:
    (config,) = of_kind("ConfigMap")
    async with embedded_api(
        worker=False, models=config["data"]["IGNITE_MODELS"], metrics_key=KEY, api_keys="me=a-long-key-of-mine"
    ) as api:
        lines = (await api.get("/metrics", authorization=f"Bearer {KEY}")).body.decode().splitlines()
    told = [line for line in lines if line.startswith(f"{metric}{{")]
    assert [line for line in told if all(f'{name}="{value}"' in line for name, value in labels.items())], told
