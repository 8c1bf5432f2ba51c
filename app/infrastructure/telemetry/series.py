"""Counters and histograms that cost a dictionary's look-up, turned into Prometheus' families when they are asked for.

Those of the client library take a lock and make children by label; here one thread counts, and any may read.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

OTHER: Final = "other"
"""Stands for every label value beyond the bound."""


class Bounded:
    """Keeps a label to so many values: whoever keeps the metrics pays for each for ever."""

    def __init__(self, most: int) -> None:
        """The first `most` values are themselves, all later ones are `other`."""
        self._most: Final = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return what stands for a value."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value


class Counts:
    """One counter for each combination of label values."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str] = ()) -> None:
        """`name` ends with `_total`."""
        self.name: Final = name
        self._meaning: Final = meaning
        self._labels: Final = labels
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, labels: tuple[str, ...] = (), count: float = 1) -> None:
        """Count."""
        self._values[labels] = self._values.get(labels, 0.0) + count

    def family(self) -> CounterMetricFamily:
        """Return what was counted."""
        family = CounterMetricFamily(self.name, self._meaning, labels=self._labels)
        for labels, value in list(self._values.items()):
            family.add_metric(labels, value)
        return family


class Buckets:
    """One histogram for each combination of label values, with classic buckets."""

    def __init__(self, name: str, meaning: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        """`bounds` ascend; each belongs to the bucket that it closes."""
        self.name: Final = name
        self._meaning: Final = meaning
        self._labels: Final = labels
        self._bounds: Final = tuple(bounds)
        self._names: Final = [floatToGoString(bound) for bound in (*bounds, float("inf"))]
        self._counts: dict[tuple[str, ...], list[float]] = {}
        if not labels:
            self.add((), 0.0, 0)

    def add(self, labels: tuple[str, ...], value: float, count: int = 1) -> None:
        """Count a value so many times."""
        counts = self._counts.get(labels)
        if counts is None:
            # The last one is the sum.
            counts = self._counts[labels] = [0.0] * (len(self._names) + 1)
        counts[bisect_left(self._bounds, value)] += count
        counts[-1] += value * count

    def family(self) -> HistogramMetricFamily:
        """Return what was counted."""
        family = HistogramMetricFamily(self.name, self._meaning, labels=self._labels)
        for labels, counts in list(self._counts.items()):
            *each, total = tuple(counts)
            running, buckets = 0.0, list[tuple[str, float]]()
            for name, count in zip(self._names, each, strict=True):
                running += count
                buckets.append((name, running))
            family.add_metric(labels, buckets, total)
        return family
