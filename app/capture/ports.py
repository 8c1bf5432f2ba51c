"""What the adapters share: whom they hand events to, how a call ended, and the promise that they never raise."""

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, TypedDict
from uuid import UUID, uuid5

from app.domain.models.completions import SessionOutcome, SessionType

_LOGGER: Final = logging.getLogger("app.capture")
_NAMESPACE: Final = UUID("6f1d2c52-6a0e-5d0c-9a53-0d5f3c1f7f0a")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LEFT: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)
MAX_NAME_CHARS: Final = 255
MAX_LABELS: Final = 32
MAX_CONTENT_CHARS: Final = 32_768
"""Characters of a final output that an event carries; an event that is too large would be refused whole."""


class Captures(Protocol):
    """Takes events: `SessionCompletionRuntime`, or a stand-in of a test."""

    def capture(self, event: Mapping[str, Any]) -> Any:
        """Take an event; never raises, returns within microseconds."""
        ...


class Identity(TypedDict, total=False):
    """Whose session it is; whatever is missing is looked for where the framework keeps it."""

    session_id: str
    user_id: str
    organization_id: str
    session_type: SessionType
    metadata: Mapping[str, Any]


class Outcome(TypedDict):
    """How a session ended, as the event says it."""

    status: SessionOutcome
    error_code: str | None


class Quietly:
    """A block whose failure the host program never sees: it is counted and logged by its type."""

    def __init__(self) -> None:
        self.faults = 0
        """Blocks that failed."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        """Swallow whatever is an `Exception`; what ends a program goes on."""
        if kind is None or not issubclass(kind, Exception):
            return False
        self.faults += 1
        if self.faults & (self.faults - 1) == 0:  # the first, second, fourth...: a fault on each call floods no log
            _LOGGER.warning("An event was not captured: %s (%d so far).", kind.__name__, self.faults)
        return True


def stable_event_id(kind: str, key: str) -> str:
    """Return the one event id of a thing that another program names: the same key gives the same id."""
    return str(uuid5(_NAMESPACE, f"{kind}:{key}"))


def succeeded() -> Outcome:
    """Return the outcome of what went well."""
    return {"status": "success", "error_code": None}


def outcome_of(error: BaseException | None) -> Outcome:
    """Return how something ended that ended with this error.

    A cancellation is the user's doing as far as anybody can tell from here. Only the error's type is told, in
    snake_case, never its text: `MaxTurnsExceeded` is `max_turns_exceeded`.
    """
    if error is None:
        return succeeded()
    code = error_code(error)
    if isinstance(error, _LEFT):
        return {"status": "user_terminated", "error_code": None}
    if isinstance(error, TimeoutError) or "timeout" in code.split("_") or "timed_out" in code:
        return {"status": "timeout", "error_code": code}
    return {"status": "error", "error_code": code}


def error_code(error: BaseException) -> str:
    """Return an error's type in snake_case."""
    return _HUMP.sub("_", type(error).__name__).lower().strip("_")[:MAX_NAME_CHARS]


def name(value: Any) -> str | None:
    """Return a value as the name of something: text of 1 to 255 characters, or None."""
    if isinstance(value, UUID | int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or "\x00" in value:
        return None
    return value if len(value) <= MAX_NAME_CHARS else None


def excerpt(content: Any) -> str | None:
    """Return the text of a final output, cut at 32,768 characters; None: it has none."""
    if isinstance(content, str):
        return content[:MAX_CONTENT_CHARS]
    dump = getattr(content, "model_dump_json", None)
    return str(dump())[:MAX_CONTENT_CHARS] if callable(dump) else None


def labels(values: Any) -> dict[str, Any]:
    """Return what may stand in an event's metadata: at most 32 labels, each a number, a truth or a short text."""
    if not isinstance(values, Mapping):
        return {}
    kept: dict[str, Any] = {}
    for key, value in values.items():
        fit = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)) or name(value)
        if isinstance(key, str) and fit and len(kept) < MAX_LABELS:
            kept[key[:MAX_NAME_CHARS]] = value
    return kept
