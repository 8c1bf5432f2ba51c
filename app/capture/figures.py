"""Exact counts of what a process has captured, and how long that took."""

import itertools
from collections import deque
from dataclasses import dataclass
from typing import Final

from app.infrastructure.completions.spool_reader import SpoolStats

_WINDOW: Final = 1_024


@dataclass(frozen=True, slots=True)
class CaptureMetrics:
    """Of this process since it began or was forked, unless it says otherwise."""

    mode: str
    captured: int
    """Events that were taken."""
    refused: int
    """Events that were wrong."""
    dropped: int
    """Events for which there was no room, or that the disk did not take."""
    disabled: int
    """Events that were offered while capture was switched off; they are none of the above."""
    sent: int
    """Events that the server has taken from this process; what another one sends for it counts there."""
    put_aside: int
    """Events that the server refused for good."""
    failed_requests: int
    """Requests that have to be made again."""
    paused: bool
    """Whether the server refuses the key or does not know the address; events wait."""
    waiting_events: int | None
    """In the buffer of mode memory; None: they are in a folder, and it tells bytes."""
    waiting_bytes: int
    capacity_bytes: int | None
    """What the spool may hold; None: mode memory counts events."""
    utilization_percent: float
    """Of what may wait."""
    latency_ms: tuple[float, float, float]
    """The quantiles 0.5, 0.95 and 0.99 of the latest 1,024 calls."""
    folder: SpoolStats | None = None
    """Of all processes that ever wrote to the spool; None: mode memory, or it cannot be read now."""


class Tally:
    """An exact count that takes no lock: a signal's handler may come between any two steps of a thread."""

    def __init__(self) -> None:
        self._ticks = itertools.count()
        self._reads = 0

    def add(self, events: int = 1) -> None:
        """Count events."""
        if events == 1:
            next(self._ticks)
        else:
            deque(itertools.islice(self._ticks, events), maxlen=0)

    @property
    def value(self) -> int:
        """The count; for one thread at a time, for looking counts too."""
        seen = next(self._ticks) - self._reads
        self._reads += 1
        return seen


class LatencyWindow:
    """The latest durations; written without a lock, so one may be lost to another thread."""

    def __init__(self) -> None:
        self._durations_ns = [0] * _WINDOW
        self._seen = 0

    def add(self, duration_ns: int) -> None:
        """Remember one."""
        self._durations_ns[self._seen & (_WINDOW - 1)] = duration_ns
        self._seen += 1

    def quantiles_ms(self) -> tuple[float, float, float]:
        """Return the quantiles 0.5, 0.95 and 0.99 in milliseconds; zeros before the first call."""
        known = sorted(self._durations_ns[: min(self._seen, _WINDOW)])
        if not known:
            return 0.0, 0.0, 0.0
        p50, p95, p99 = (known[int(share * (len(known) - 1))] / 1e6 for share in (0.5, 0.95, 0.99))
        return p50, p95, p99
