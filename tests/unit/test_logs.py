"""What is logged holds no secrets, in any style."""

import logging
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
