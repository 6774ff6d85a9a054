"""One line per event: its name and fields; JSON unless a terminal reads along."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logging(level: str) -> None:
    """Send our events and those of the standard library to stderr in one form."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(_number(level)),
    )
    # Plain tracebacks: the others print local variables, and prompts are among them.
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(_number(level))
    # at every start it tells that it found nothing to do
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # at info it tells whole addresses, signatures included
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # at debug it tells whole events, previews and signed links among them
    logging.getLogger("sse_starlette").setLevel(logging.INFO)
    # at debug it tells whole EXIF texts, and prompts are among them
    logging.getLogger("PIL").setLevel(logging.INFO)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
