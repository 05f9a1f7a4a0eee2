"""Checks every line of a batch's input before the first one is run, and lists the invalid ones.

Memory: one hash per custom_id (50,000 lines: 4 MB). custom_ids with equal hashes are compared as strings in a second
pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from producer.batches.document import Problem
from producer.batches.input.lines import BadLine, BatchLine, RawLine, checked_line, line_tokens, parse_line

MOST_PROBLEMS = 100
"""Problems that are reported; validation stops there."""


@dataclass(slots=True)
class Validation:
    """`only`: hashes of the custom_ids that will be run, None for all. `models`: the first line of each model;
    `tokens`: the estimated tokens of each model's lines.
    """

    endpoint: str
    line_limit: int
    only: Container[int] | None = None
    total: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])
    models: dict[str, int] = field(default_factory=dict[str, int])
    tokens: Counter[str] = field(default_factory=Counter[str])
    doubtful: set[int] = field(default_factory=set[int])
    _seen: set[int] = field(default_factory=set[int])

    @property
    def full(self) -> bool:
        """Whether reading more lines cannot change the verdict."""
        return len(self.problems) >= MOST_PROBLEMS or len(self.doubtful) >= MOST_PROBLEMS or self.too_many

    @property
    def too_many(self) -> bool:
        return self.total > self.line_limit

    def add(self, raw: RawLine) -> str | None:
        """Checks a line. Returns its model if this is the first line that names it, else None."""
        try:
            line = checked_line(raw.data, self.endpoint)
        except BadLine as bad:
            self._note(bad.problem, raw.number)
            return None
        if self.only is not None and hash(line.custom_id) not in self.only:
            return None
        self.total += 1
        self._check_unique(line)
        self.tokens[line.model] += line_tokens(line, len(raw.data or b""))
        if line.model in self.models:
            return None
        self.models[line.model] = raw.number
        return line.model

    def unknown_model(self, model: str, message: str, code: str) -> None:
        problem = Problem(code=code, message=message, param="body.model")
        self._note(problem, self.models[model])

    def end(self) -> None:
        """Checks the number of lines, after the last line or when `full`."""
        if self.too_many:
            message = f"The batch has more than {self.line_limit:,} requests."
            self.problems.append(Problem(code="too_many_tasks", message=message))
        elif not self.total and not self.problems:
            message = "The batch input file is empty. Please ensure that the batch contains at least one request."
            self.problems.append(Problem(code="empty_batch", message=message))

    def _check_unique(self, line: BatchLine) -> None:
        key = hash(line.custom_id)
        if key in self._seen:
            self.doubtful.add(key)
        self._seen.add(key)

    def _note(self, problem: Problem, number: int) -> None:
        self.problems.append(problem.model_copy(update={"line": number}))


@dataclass(slots=True)
class Duplicates:
    """The second pass: finds the equal custom_ids among those with equal hashes."""

    endpoint: str
    doubtful: Container[int]
    problems: list[Problem] = field(default_factory=list[Problem])
    _seen: set[str] = field(default_factory=set[str])

    def add(self, raw: RawLine) -> None:
        try:
            custom_id = parse_line(raw.data, self.endpoint).custom_id
        except BadLine:
            return
        if hash(custom_id) not in self.doubtful:
            return
        if custom_id in self._seen:
            message = (
                f"The custom_id '{custom_id[:100]}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            )
            problem = Problem(code="duplicate_custom_id", message=message, param="custom_id", line=raw.number)
            self.problems.append(problem)
        self._seen.add(custom_id)

    @property
    def full(self) -> bool:
        return len(self.problems) >= MOST_PROBLEMS


def in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    """Returns the problems of the whole input, then the problems of lines in order."""
    return tuple(sorted(problems, key=lambda problem: problem.line or 0)[:MOST_PROBLEMS])
