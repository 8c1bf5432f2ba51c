"""What is told of the last moments: quantiles and rates, from a bounded memory, worked out when somebody asks."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

KEPT_VALUES: Final = 2_048
_KEPT_SECONDS: Final = 16


class RecentQuantiles:
    """The latest values, exactly; older ones are forgotten, so it follows what is so now.

    Adding is one assignment. Quantiles of several processes cannot be made into one: that is what histograms are for.
    """

    def __init__(self, kept: int = KEPT_VALUES) -> None:
        """Keep so many values."""
        self._kept: Final = kept
        self._values: list[float] = []
        self._next = 0

    def add(self, value: float) -> None:
        """Remember a value, instead of the oldest one."""
        if len(self._values) < self._kept:
            self._values.append(value)
            return
        self._values[self._next] = value
        self._next = (self._next + 1) % self._kept

    def quantiles(self, wanted: Sequence[float]) -> Sequence[float]:
        """Return the smallest values that so large a share of all is not above; not a number when there are none."""
        ordered = sorted(self._values)
        if not ordered:
            return [float("nan")] * len(wanted)
        last = len(ordered) - 1
        return [ordered[min(last, max(0, math.ceil(quantile * len(ordered)) - 1))] for quantile in wanted]


class RecentRate:
    """How many a second there were in the last full seconds."""

    def __init__(self, window_s: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        """`window_s` is less than 16; the clock gives seconds."""
        assert 0 < window_s < _KEPT_SECONDS
        self._window_s: Final = window_s
        self._clock: Final = clock
        self._seconds = [-1] * _KEPT_SECONDS
        self._counts = [0] * _KEPT_SECONDS

    def add(self, count: int) -> None:
        """Note that so many have just come."""
        second = int(self._clock())
        place = second % _KEPT_SECONDS
        if self._seconds[place] != second:
            self._seconds[place], self._counts[place] = second, 0
        self._counts[place] += count

    def per_second(self) -> float:
        """Return the mean over the window; the second that is not over yet does not count."""
        now = int(self._clock())
        known = zip(tuple(self._seconds), tuple(self._counts), strict=True)
        return sum(count for second, count in known if now - self._window_s <= second < now) / self._window_s
