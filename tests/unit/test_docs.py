"""What the documents promise about names is checked against the code."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from prometheus_client import REGISTRY

import ignite
import producer.metrics  # noqa: F401
import worker.telemetry.metrics  # noqa: F401  (what both register is looked for here)
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


def anchors_of(page: Path) -> set[str]:
    """What a link into a page can name, as GitHub derives it from headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
    for page in [*pages, *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name} points to {target}"
            assert not anchor or anchor in anchors_of(linked), f"{page.name} points to {target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    decisions = {page for page in pages if page.startswith("adr/")}
    assert pages - decisions - {"README.md"} <= set(re.findall(r"\]\(([^)]+)\)", index))
    listed = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert {page for page in decisions if page not in ("adr/README.md",)} <= {
        f"adr/{target}" for target in re.findall(r"\]\(([^)]+)\)", listed)
    }


def test_every_path_that_the_architecture_names_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    for row in re.findall(r"^\| [^|]+ \| (.+) \|$", page, re.MULTILINE):
        for name in re.findall(r"`([\w/.]*/[\w/.]*)`", row):
            assert (ROOT / name).exists(), f"architecture.md names {name}"
    for name in re.findall(r"`([\w/]+\.(?:py|lua|proto))`", page):
        assert (ROOT / name).is_file(), f"architecture.md names {name}, which is no path from the root"


def test_every_test_that_the_page_of_reliability_names_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "reliability.md").read_text()
    for name in re.findall(r"`(\w+/[\w/]+\.py)`", page):
        assert (ROOT / "tests" / name).exists() or (ROOT / name).exists(), name


COINED = (
    *(
        "attempt",
        "try",
        "waiting call",
        "detached",
        "reattach",
        "idempotency key",
        "fingerprint",
        "tombstone",
        "orphan",
    ),
    *("reconciler", "restore", "quarantined", "undecodable", "background retry", "fast path", "eager send"),
    *(
        "claim",
        "lease",
        "fenced",
        "outcome",
        "ending",
        "continue",
        "replay",
        "fold",
        "put back",
        "piggybacked",
        "dialect",
    ),
    *("follower", "drain rate", "estimate", "fair queue", "virtual time", "weight", "principal", "meter"),
    *("outbox", "notice", "line limit", "segment", "generation", "overtaken", "deferred"),
)
"""Words to which this project gives a meaning of its own."""


def word_pattern(term: str) -> re.Pattern[str]:
    """A term in prose or in names: `fair queue`, `fair_queue`, `FairQueue`; a last `y` may have become `ies`."""
    stem = re.sub(r"y$", "(?:y|ies)", term)
    return re.compile(stem.replace(" ", "[ _-]?"), re.IGNORECASE)


def test_the_glossary_has_every_coined_word_of_the_code_once_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "glossary.md").read_text()
    entries = [term for term in re.findall(r"^\| ([a-z ]+) \| [^|]+ \|$", page, re.MULTILINE) if term != "term"]
    packages = ("ignite", "producer", "worker", "shared")
    code = "\n".join(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))
    assert len(entries) == len(set(entries))
    assert [term for term in entries if not word_pattern(term).search(code)] == []
    assert [term for term in COINED if word_pattern(term).search(code) and term not in entries] == []
