"""Faults to inject, in the order in which they were asked for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Fail:
    """Answer with an error of the API; the request is not looked at."""

    status: int
    code: str | None
    message: str
    error_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Garbage:
    """Answer 200 with a body that is no JSON."""


@dataclass(frozen=True)
class Hang:
    """Stop answering until the client leaves, `release()` or the end of the server.

    `after_events` None hangs before anything is sent or the model is asked; a number, after that many stream events.
    """

    after_events: int | None


@dataclass(frozen=True)
class Cut:
    """Close the socket after that many stream events, or in the middle of a plain body.

    `stored`: the server finishes its work all the same, as a broken network would let it.
    """

    after_events: int
    stored: bool


Fault: TypeAlias = Fail | Garbage | Hang | Cut


class Faults:
    """The queue of faults, each for one request, and the delay of all of them. Callable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: list[tuple[str | None, Fault]] = []
        self._delay_s = 0.0
        self._delay_each_event = False

    def add(self, fault: Fault, *, path: str | None, times: int = 1) -> None:
        """Queue a fault for the next `times` requests whose path ends with `path` (None: any)."""
        with self._lock:
            self._queue.extend([(path, fault)] * times)

    def take(self, path: str) -> Fault | None:
        """The first queued fault for this path, removed; None when there is none."""
        with self._lock:
            for position, (suffix, fault) in enumerate(self._queue):
                if suffix is None or path.endswith(suffix):
                    del self._queue[position]
                    return fault
        return None

    @property
    def left(self) -> int:
        """How many queued faults have not happened yet."""
        with self._lock:
            return len(self._queue)

    def slow(self, delay_s: float, *, each_event: bool) -> None:
        """Delay every answer from now on, and with `each_event` every stream event too; 0 ends it."""
        with self._lock:
            self._delay_s = delay_s
            self._delay_each_event = each_event

    @property
    def delay_s(self) -> float:
        """How long to wait before an answer begins."""
        with self._lock:
            return self._delay_s

    @property
    def event_delay_s(self) -> float:
        """How long to wait before each stream event."""
        with self._lock:
            return self._delay_s if self._delay_each_event else 0.0
