"""What the documents promise about names is checked against the code."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from prometheus_client import REGISTRY

import ignite
import producer.metrics  # noqa: F401  (what it registers is looked for here)
from benchmarks.sizing import Assumed, tables
from ignite.cli import cli
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
READ = {".md", ".py", ".sh", ".yaml", ".yml", ".toml"}


def test_every_setting_is_documented_with_its_description() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"| `{name}` |" in page
        assert str(field.description) in page


def test_the_page_documents_no_setting_that_is_gone() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(Settings.model_fields)


def test_every_setting_is_an_option() -> None:
    options = {parameter.name for command in cli.commands.values() for parameter in command.params}
    assert set(Settings.model_fields) <= options


def test_the_readme_puts_the_command_on_the_path_before_it_is_typed() -> None:
    page = (ROOT / "README.md").read_text()
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        before, typed, _ = block.partition("\nignite ")
        assert not typed or ". .venv/bin/activate" in before, block
    first = re.search(r"`ignite (?!is ready)", page)
    assert first and page.index(". .venv/bin/activate") < first.start()


def test_the_distribution_has_its_name_everywhere() -> None:
    """`ignite` on PyPI is another project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["version"]) == ("dodil-ignite", version("dodil-ignite"))
    assert project["version"] == ignite.__version__
    assert '\nname = "ignite"\n' not in (ROOT / "uv.lock").read_text()
    tracked = ("README.md", "Dockerfile", "docs", "deploy", "scripts", "ignite", "producer", "worker", "shared")
    for path in (ROOT / each for each in tracked):
        for file in [path] if path.is_file() else (each for each in path.rglob("*") if each.suffix in READ):
            assert not re.search(r"pip install\W+ignite\b", file.read_text()), file


def test_every_metric_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    ours = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in REGISTRY.collect()
        if metric.name.startswith("ignite_")
    }
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == ours


def test_the_tables_of_sizing_are_what_is_computed() -> None:
    page = (ROOT / "docs" / "explanation" / "sizing.md").read_text()
    for table in tables(Assumed()):
        assert f"\n\n{table}\n\n" in page, f"docs/explanation/sizing.md should say\n\n{table}"


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"
