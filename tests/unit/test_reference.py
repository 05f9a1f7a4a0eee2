"""The reference pages name what the code has: log events, error codes, endpoints and commands, no more and no less."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from fastapi.routing import APIRoute

from ignite.cli import cli
from producer.batches import routes as batches
from producer.files import routes as files
from producer.http.errors import status_of
from producer.http.routes import calls, completions, dead, health, jobs, models, operations, responses, stored
from shared import errors
from shared.errors import IgniteError, RecordedError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
SOURCES = [path for package in ("ignite", "producer", "worker", "shared") for path in (ROOT / package).rglob("*.py")]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
BATCH_PROBLEMS = {"BadLine", "Problem"}


def rows_of(page: Path) -> Iterator[list[str]]:
    """The cells of every row of a page's tables."""
    for line in page.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("|--"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def logged_levels(node: ast.AST) -> set[str]:
    """The levels of the `log` methods that an expression names."""
    found = {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "log"
    }
    return {"error" if level == "exception" else level for level in found & LEVELS}


def events_of(source: Path) -> Iterator[tuple[str, str]]:
    """Every event that a module logs, with its level."""
    tree = ast.parse(source.read_text())
    chosen = {
        target.id: levels
        for each in ast.walk(tree)
        if isinstance(each, ast.Assign) and (levels := logged_levels(each.value))
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and call.args and isinstance(event := call.args[0], ast.Constant):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            for level in chosen.get(name) or logged_levels(call.func):
                yield str(event.value), level


def test_every_log_event_is_documented_with_its_levels() -> None:
    logged: defaultdict[str, set[str]] = defaultdict(set)
    for source in SOURCES:
        for event, level in events_of(source):
            logged[event].add(level)
    page = {
        names_in(row[0])[0]: set(row[1].split(", ")) for row in rows_of(REFERENCE / "log-events.md") if "`" in row[0]
    }
    assert page == dict(logged)


def test_every_log_event_has_a_name() -> None:
    for source in SOURCES:
        for event, _ in events_of(source):
            assert re.fullmatch(r"[a-z_]+\.[a-z_]+", event), f"{source.relative_to(ROOT)}: {event!r}"


def text_of(node: ast.expr | None, constants: Mapping[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return constants.get(node.id) if isinstance(node, ast.Name) else None


def constants_of(tree: ast.Module) -> dict[str, str]:
    return {
        target.id: each.value.value
        for each in tree.body
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
        for target in each.targets
        if isinstance(target, ast.Name)
    }


def coded_calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Calls that name an error's code: what is called, the code, the call."""
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        constants = constants_of(tree)
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            position = {"Refusal": 1, "BadLine": 0}.get(call.func.id)
            given = keywords.get("code") or (call.args[position] if position is not None and call.args else None)
            if code := text_of(given, constants):
                yield call.func.id, code, call


def tree_of(root: type[IgniteError]) -> Iterator[type[IgniteError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree_of(child)


def codes_in_code() -> set[tuple[str, str]]:
    """Every status and code that a client can meet."""
    classes = {kind.__name__: kind for kind in tree_of(IgniteError) if kind is not RecordedError}
    found = {(str(status_of(kind(""))), kind.default_code) for kind in classes.values()}
    for called, code, call in coded_calls():
        if called in classes:
            found.add((str(status_of(classes[called](""))), code))
        elif called == "Refusal":
            found.add((ast.unparse(call.args[0]), code))
    return found


def test_every_error_code_is_documented_with_its_status() -> None:
    rows = [row for row in rows_of(REFERENCE / "errors.md") if re.fullmatch(r"\d{3}", row[0])]
    page = {(row[0], code) for row in rows for code in names_in(row[1])}
    assert page == codes_in_code()


def test_every_problem_of_a_batch_is_documented() -> None:
    problems = {code for called, code, _ in coded_calls() if called in BATCH_PROBLEMS}
    page = (DOCS / "how-to" / "batches.md").read_text()
    assert {code for code in problems if f"`{code}`" not in page} == set()


def commands_of(command: click.Command, words: tuple[str, ...]) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands_of(child, (*words, name))
    else:
        yield " ".join(words)


def test_every_command_is_documented_and_no_other() -> None:
    page = {name for row in rows_of(REFERENCE / "cli.md") for name in names_in(row[0]) if name.startswith("ignite ")}
    assert page == set(commands_of(cli, ("ignite",)))


def test_every_endpoint_is_documented_and_no_other() -> None:
    routers = [
        room.router for room in (completions, calls, stored, responses, jobs, models, files, batches, dead, operations)
    ]
    routes = [route for router in (*routers, health.router) for route in router.routes if isinstance(route, APIRoute)]
    served = {f"{method} {re.sub(':path', '', route.path)}" for route in routes for method in route.methods or ()}
    page = (REFERENCE / "endpoints.md").read_text().partition("## Not served")[0]
    assert {re.sub(r"{\w+}", "{id}", each) for each in served} == set(
        re.findall(r"`((?:GET|POST|DELETE) [^`]+)`", page)
    )
