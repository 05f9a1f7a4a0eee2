"""The tree can be read: no package is crowded, no import runs in a circle, and retired words stay away."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ignite", "producer", "worker", "shared")
MOST_MODULES = 15
GENERATED = "_pb2"
MOST_LINES = 350
"""Lines of a file, except LONG_FILES."""

LONG_FILES = frozenset({Path("shared/settings.py")})
"""A list of settings is easier to read in one place."""

LONGEST_FUNCTION = 50
"""Lines of a function."""

RETIRED = {
    "chores": "background retries",
    "strays": "orphans",
    "sweeper": "reconciler",
    "doors_of": "context_of",
    "Workplace": "WorkerContext",
    "persistently": "retry_while_unavailable",
    "take_up": "reattach",
    "StrayFinder": "OrphanFinder",
    "KeyBook": "KeyRepository",
    "FairLine": "FairQueue",
    "CarriedDelivery": "PiggybackedDelivery",
    "HeldDelivery": "CurrentDelivery",
    "unheeded": "run_and_discard",
    "hang_up_watched": "watching_disconnect",
    "StrangersReceiving": "UnauthenticatedReceiving",
    "HeldBodies": "BodyBudgetMiddleware",
    "job_of_anybody": "job_of_any_tenant",
    "hurry": "flush",
    "hearers": "count_subscribers",
    "anybody_hears": "any_subscribed",
    "who_hears": "subscribed_each",
    "line_turn": "fair_queue_next",
    "limit_settle": "limit_charge",
    "chore": "background retry",
    "stray": "orphan",
    "taken_up": "reattached",
    "place_of": "queue_position",
    "queue_place": "queue_object",
    "settle": "charge, resolve, flush or commit",
    "give_back": "refund",
    "hand_back": "requeue",
    "wait_on": "deliver_again",
    "look_again": "choose_again",
    "let_go": "release",
    "anybody": "any process, any caller",
    "take_key": "idempotency_key_claim",
    "fed_before": "may_exist",
    "MOST_BEHIND": "MOST_DEFERRED",
    "refuse_unheeded": "refuse_ignored_fields",
    "_look_at_key": "_check_key",
    "talks_to_the_api": "api_options",
    "behind_links": "resolve_link",
    "mendable": "reporting_user_errors",
    "is_sign_of_life": "is_usable_status",
    "range_counts": "range_applies",
    "heard_from": "answered",
}
"""Words that only this project used, each with the field's word for it."""


def modules() -> list[Path]:
    return [
        path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if GENERATED not in path.name
    ]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """What a module imports at its top, for type checkers too."""
    waiting: list[ast.stmt] = [*ast.parse(path.read_text()).body]
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ast.If):
            waiting += [*statement.body, *statement.orelse]
        elif isinstance(statement, ast.Try):
            waiting += statement.body
        elif isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for imported in sorted(graph[name]):
            if found := visit(imported, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_no_import_runs_in_a_circle() -> None:
    paths = {name_of(path): path for path in modules() if path.name != "__init__.py"}
    graph = {name: {other for other in imports_of(path) if other in paths} for name, path in paths.items()}
    assert cycle_in(graph) == []


@pytest.mark.parametrize("package", sorted({path.parent for path in modules()}), ids=lambda path: path.name)
def test_no_package_has_too_many_modules(package: Path) -> None:
    own = [path.name for path in package.glob("*.py") if path.name != "__init__.py" and GENERATED not in path.name]
    assert len(own) <= MOST_MODULES, f"{package.relative_to(ROOT)} has {len(own)} modules: {own}"


def test_no_file_is_too_long() -> None:
    lines = {path.relative_to(ROOT): path.read_text().count("\n") for path in modules()}
    assert {path: count for path, count in lines.items() if count > MOST_LINES and path not in LONG_FILES} == {}


def test_no_function_is_too_long() -> None:
    functions = (
        (f"{path.relative_to(ROOT)}: {node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert {name: lines for name, lines in functions if lines >= LONGEST_FUNCTION} == {}


def test_routes_are_no_libraries() -> None:
    """What several routes need is beside them: an endpoint can be changed without a look at the others."""
    routes = "producer.http.routes."
    found = [
        f"{name_of(path)} imports {imported}"
        for path in modules()
        if name_of(path) != "producer.app"
        for imported in imports_of(path)
        if imported.startswith(routes)
    ]
    assert found == []


def test_retired_words_stay_away() -> None:
    files = [*modules(), *(ROOT / "docs").rglob("*.md"), *(ROOT / "shared").rglob("*.lua"), ROOT / "README.md"]
    found = [
        f"{path.relative_to(ROOT)}: {word!r}, say {better!r}"
        for path in files
        if "adr" not in path.parts
        for word, better in RETIRED.items()
        if re.search(rf"\b{word}\b", path.read_text())
    ]
    assert found == []
