"""Logs: JSON lines for machines, short lines for people; to standard error, because standard output is data."""

import logging
import sys
from typing import Any, Literal

import structlog

LogFormat = Literal["auto", "json", "console"]


def configure_logs(level: str, log_format: LogFormat) -> None:
    """Set up structlog and the standard library's logging for the whole process."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.stdlib.ExtraAdder(),
    ]
    renderers: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[processor for processor in processors if not isinstance(processor, structlog.stdlib.ExtraAdder)]
        + renderers,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # Looked up at each use: tests and servers replace standard error.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    # The libraries below say at INFO what we say better ourselves.
    for noisy in ("httpx2", "httpcore2", "aiosqlite", "sqlalchemy", "alembic", "openai", "asyncio"):
        logging.getLogger(noisy).setLevel(max(threshold, logging.WARNING))
