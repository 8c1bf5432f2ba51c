"""Whether events are captured: the variable counts the moment it changes, the files within a second."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_VARIABLE: Final = b"SCR_ENABLED"
_OFF: Final = frozenset({b"0", b"off", b"f", b"false", b"n", b"no"})
_ON: Final = frozenset({b"1", b"on", b"t", b"true", b"y", b"yes"})
# Asking os.environ itself for what is not there raises and catches an error: a fifth of a whole capture.
_ENVIRONMENT: Final[Mapping[Any, Any]] = getattr(os.environ, "_data", os.environb)
_LOOK_EVERY_NS: Final = 1_000_000_000
_QUIET_S: Final = 10.0

logger: Final = logging.getLogger("app.capture")


class Switch:
    """The last of these to change decides: the variable, `turn`."""

    __slots__ = ("_on", "_seen")

    def __init__(self, *, on: bool) -> None:
        """`on`: what the settings say, the variable included."""
        self._on = on
        self._seen = _ENVIRONMENT.get(_VARIABLE)

    def is_on(self) -> bool:
        """Tell; costs a tenth of a microsecond."""
        now = _ENVIRONMENT.get(_VARIABLE)
        if now != self._seen:
            self._seen = now
            if now is not None:
                word = now.strip().lower()
                self._on = word in _ON if word in _ON or word in _OFF else self._on
        return self._on

    def turn(self, *, on: bool) -> None:
        """Switch capture on or off."""
        self._seen = _ENVIRONMENT.get(_VARIABLE)
        self._on = on


class WatchedFiles:
    """Settings files that may be written while the process runs."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Remember how they are now; one that is missing may come."""
        self._paths: Final = tuple(path.absolute() for path in paths)
        self._known = self._state()
        self._next_look_ns = 0

    def changed(self, now_ns: int) -> bool:
        """Tell whether one has changed since the last time; looks once a second at most."""
        if now_ns < self._next_look_ns:
            return False
        self._next_look_ns = now_ns + _LOOK_EVERY_NS
        state = self._state()
        if state == self._known:
            return False
        self._known = state
        return True

    def _state(self) -> list[tuple[int, int] | None]:
        states: list[tuple[int, int] | None] = []
        for path in self._paths:
            try:
                found = path.stat()
            except OSError:
                states.append(None)
            else:
                states.append((found.st_mtime_ns, found.st_size))
        return states


class Complaints:
    """Log lines about what goes wrong, one of a kind in ten seconds: a fault on each call floods no log."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[float, int]] = {}

    def say(self, level: int, kind: str, reason: str, event_id: str | None = None) -> None:
        """Log what happened, with how often it did since the last line about it."""
        now = time.monotonic()
        due, held_back = self._kinds.get(kind, (0.0, 0))
        if now < due:
            self._kinds[kind] = (due, held_back + 1)
            return
        self._kinds[kind] = (now + _QUIET_S, 0)
        more = f" ({held_back} more since the last line)" if held_back else ""
        logger.log(level, "%s: %s%s", kind, reason, more, extra={"component": "capture", "event_id": event_id})
