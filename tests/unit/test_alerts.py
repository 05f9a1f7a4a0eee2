"""The alert rules name metrics and labels that are there, and the runbook has a paragraph for each."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

import producer.metrics  # noqa: F401
import worker.telemetry.metrics  # noqa: F401  (what both register is looked for here)

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]


def exported() -> set[str]:
    """The names of Ignite's samples, as Prometheus knows them."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {f"{metric.name}{suffix}" for metric in REGISTRY.collect() for suffix in suffixes.get(metric.type, ())}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_metric_of_an_alert_exists(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\bignite_\w+", rule["expr"]))
    assert named and named <= exported()


def test_the_runbook_has_a_paragraph_for_every_alert_and_no_other() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "how-to" / "runbook.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
