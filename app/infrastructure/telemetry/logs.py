"""Logs: JSON lines for machines, short lines for people; to standard error, because standard output is data.

A JSON line has `timestamp`, `level`, `component`, `message`, and what belongs to it, such as `event_id`, `session_id`
and `latency_ms`. `event` is the same as `message`: it is what the lines were found by before.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from functools import cache
from typing import Any, Final, Literal

import structlog

LogFormat = Literal["auto", "json", "console"]

# Keys and tokens as they appear in headers and error texts, and passwords in URLs.
_SECRETS = re.compile(
    r"(?P<keep>Bearer\s+)[^\s'\"]+|(?P<user>://[^\s:/@]*:)[^\s@/'\"]+(?=@)|\b(?:sk|sess|rk)[-_][A-Za-z0-9_\-*.]{8,}",
    re.IGNORECASE,
)


_CAPTURE: Final[Mapping[str, str]] = {
    "app.capture": "capture",
    "app.infrastructure.completions.spool": "capture",
    "app.services.event_intake": "intake",
    "app.services.session_payloads": "intake",
    "app.infrastructure.completions.relay": "relay",
    "app.services.deliveries": "delivery",
    "app.services.delivery_rounds": "delivery",
    "app.infrastructure.completions.destinations": "delivery",
    "app.completions": "delivery",
}
"""Components of completion capture, by the beginning of the logger's name: that name itself, or followed by a dot."""


def redacted(text: str) -> str:
    """Return a text without the secrets that foreign libraries are known to put into theirs."""
    return _SECRETS.sub(lambda match: f"{match['keep'] or match['user'] or ''}***", text)


def _redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of every text of a log line, tracebacks included; it runs just before rendering."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redacted(value)
    return event


class _NamedLogger(structlog.PrintLogger):
    """Prints to standard error, and knows whose lines these are."""

    def __init__(self, name: str) -> None:
        super().__init__(sys.stderr)
        self.name = name


@cache
def _component_of(name: str) -> tuple[str, bool]:
    """Return the component of a logger, and whether it is one of completion capture."""
    for place, component in _CAPTURE.items():
        if f"{name}.".startswith(f"{place}."):
            return component, True
    package, _, within = name.partition(".")
    # Of another's line one wants to know whose it is: uvicorn's own logger is called `uvicorn.error`.
    return within.rpartition(".")[2] if package == "app" and within else package or "app", False


def _without_colours(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out uvicorn's second text, which is the first one with a terminal's colours."""
    event.pop("color_message", None)
    return event


def _completed(logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Give a line the fields that every JSON line has.

    Lines of completion capture say their level in capitals, as its first plan shows them; all others as ever.
    """
    record = event.get("_record")
    name: str = getattr(logger, "name", None) or "" if record is None else record.name
    component, captures = _component_of(name)
    event.setdefault("component", component)
    event.setdefault("message", event.get("event"))
    if captures and isinstance(event.get("level"), str):
        event["level"] = event["level"].upper()
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
        _without_colours,
    ]
    if not console:
        processors.append(_completed)
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
        logger_factory=lambda *names: _NamedLogger(names[0] if names else ""),
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
