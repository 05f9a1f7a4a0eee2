"""What the documents promise about names is checked against the code."""

import re
from pathlib import Path

from prometheus_client import REGISTRY

import producer.metrics  # noqa: F401  (what it registers is looked for here)
from benchmarks.sizing import Assumed, tables
from shared.settings import Settings

ROOT = Path(__file__).parents[2]


def test_every_setting_is_documented_with_its_description() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"| `{name}` |" in page
        assert str(field.description) in page


def test_the_page_documents_no_setting_that_is_gone() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(Settings.model_fields)


def test_every_metric_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    ours = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in REGISTRY.collect()
        if metric.name.startswith("ignite_")
    }
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == ours


def test_the_tables_of_sizing_are_what_is_computed() -> None:
    page = (ROOT / "docs" / "sizing.md").read_text()
    for table in tables(Assumed()):
        assert f"\n\n{table}\n\n" in page, f"docs/sizing.md should say\n\n{table}"


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"
