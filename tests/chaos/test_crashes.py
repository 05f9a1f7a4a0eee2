"""Log lines that no fault explains are found in a process's output."""

from tests.chaos.supervise import crashes_in


def test_a_crash_in_the_log_is_found_once_and_ordinary_warnings_are_not() -> None:
    lines = [
        '{"event": "backend.unavailable", "level": "warning"}',
        '{"task": "reconciler", "event": "background.died", "level": "critical"}',
        '{"event": "request.crashed", "level": "error"}',
        '{"event": "request.crashed", "level": "error"}',
        '{"tasks": ["x"], "event": "tasks.left", "level": "error"}',
    ]
    assert crashes_in("\n".join(lines)) == ["background.died", "request.crashed", "tasks.left"]
