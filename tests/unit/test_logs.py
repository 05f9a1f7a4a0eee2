"""What is logged holds no secrets, in any style."""

import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from shared.logs import NOISY, set_up_logs

SECRET = "sk-of-a-tenant-0123456789"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, config = logging.getLogger(), structlog.get_config()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("root", *NOISY)}
    yield
    structlog.configure(**config)
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def crash(key: str) -> None:
    raise ZeroDivisionError(f"with a key of {len(key)} characters")


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("ours", [True, False], ids=["our logger", "a library's"])
def test_a_traceback_shows_no_local_variables(style: str, ours: bool, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("info", style)
    log = structlog.get_logger("test") if ours else logging.getLogger("test")
    try:
        crash(SECRET)
    except ZeroDivisionError:
        log.exception("crashed")
    printed = capsys.readouterr().err
    assert "crash(SECRET)" in printed and "with a key of 25 characters" in printed
    assert SECRET not in printed


def test_a_line_in_a_terminal_is_short_and_leaves_out_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("info", "text")
    structlog.get_logger("test").info("job.finished", outcome="failed", code="engine_error", first_token=None)
    logging.getLogger("uvicorn.error").info("Waiting for application startup.")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[info +\] job\.finished +outcome=failed code=engine_error", line), line
