"""Logs: JSON lines for machines, short lines for people; to standard error, because standard output is data."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

LogFormat = Literal["auto", "json", "console"]

# Keys and tokens as they appear in headers and error texts, and passwords in URLs.
_SECRETS = re.compile(
    r"(?P<keep>Bearer\s+)[^\s'\"]+|(?P<user>://[^\s:/@]*:)[^\s@/'\"]+(?=@)|\b(?:sk|sess|rk)[-_][A-Za-z0-9_\-*.]{8,}",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a text without the secrets that foreign libraries are known to put into theirs."""
    return _SECRETS.sub(lambda match: f"{match['keep'] or match['user'] or ''}***", text)


def _redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of every text of a log line, tracebacks included; it runs just before rendering."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redacted(value)
    return event


class _StderrHandler(logging.Handler):
    """Writes to what standard error is at the time, as our own logger does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr)  # noqa: T201 - standard error is where logs go


def adopt_host_logs() -> None:
    """Send our log lines through the standard library's logging, where a host program has not set up structlog.

    structlog's own default prints to standard output, which is not ours to write to.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.format_exc_info,
            _redact,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def configure_logs(level: str, log_format: LogFormat) -> None:
    """Set up structlog and the standard library's logging for the whole process."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.stdlib.ExtraAdder(),
    ]
    renderers: list[Any] = [
        structlog.processors.format_exc_info,
        _redact,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if console else structlog.processors.JSONRenderer(),
    ]
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[processor for processor in processors if not isinstance(processor, structlog.stdlib.ExtraAdder)]
        + renderers,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        # Looked up at each use: tests and servers replace standard error.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = _StderrHandler()
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
