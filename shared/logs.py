"""Logging: one structured stream on stderr. Expected events are info, bugs are errors with their traceback, and faults
of the infrastructure are warnings with `next`. Context (job, attempt, request id) is bound once.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog

NOISY = ("aio_pika", "aiormq", "asyncio", "redis", "uvicorn.access", "uvicorn.error")
"""Libraries of which only errors are logged: Ignite's own lines say what their information and warnings mean."""

EVENT_WIDTH = 24
"""Columns of an event's name in a terminal."""


def set_up_logs(level: str, style: str) -> None:
    """Configures logging. `style`: auto (text on a terminal, JSON lines otherwise), text or json."""
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper("%H:%M:%S" if text else "iso", utc=not text),
        without_unknown,
    ]
    # Plain tracebacks: the usual ones show local variables, which hold prompts and keys, and take seconds to make.
    console = structlog.dev.ConsoleRenderer(
        pad_event_to=EVENT_WIDTH,
        sort_keys=False,
        colors=sys.stderr.isatty(),
        exception_formatter=structlog.dev.plain_traceback,
    )
    renderer: Any = console if text else structlog.processors.JSONRenderer(as_json)
    errors = [] if text else [structlog.processors.format_exc_info]
    structlog.configure(
        # Ignite's own lines bypass the logging module, which would cost more than the rest of a line.
        processors=[*shared, *errors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *errors, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.ERROR, root.level))


def without_unknown(_: Any, __: str, line: dict[str, Any]) -> dict[str, Any]:
    """Removes the fields whose value is not known."""
    return {name: value for name, value in line.items() if value is not None}


def as_json(line: Any, **options: Any) -> str:
    return orjson.dumps(line, options["default"]).decode()
