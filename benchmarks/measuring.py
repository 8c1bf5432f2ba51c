"""Rounds in turns on a machine that others use too: CPU time, medians, and the spread of the ratio."""

import gc
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int = 9
    runs: Mapping[int, int] = field(default_factory=lambda: {0: 24, 100: 16, 1000: 5})
    """Runs a round, by items of history."""
    long_history: int = 10_000
    long_runs: int = 16
    streams: int = 32
    session_calls: int = 40
    step_runs: int = 6
    readers: Sequence[int] = (1, 100, 1000)
    reader_rounds: int = 3
    is_quick: bool = False

    @classmethod
    def quick(cls) -> "Scale":
        """Return a scale that takes seconds."""
        return cls(1, {0: 1, 100: 1, 1000: 1}, 2_000, 1, 4, 2, 1, (1, 20), 1, is_quick=True)


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one contestant, per operation."""

    cpu_ms: float
    wall_ms: float
    """Of the whole round; `p50_ms` where operations were timed one by one."""
    p50_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that is measured."""

    run: Callable[[], Awaitable[Sequence[float]]]
    """Do one round; returns the wall seconds of each operation."""
    before: Callable[[], Awaitable[None]] | None = None
    """Put things back as they were, outside of the measured time."""
    cpu_s: Callable[[], float] = time.process_time
    """The CPU clock of the measured process, all threads."""


async def in_turns(contestants: Mapping[str, Contestant], scale: Scale) -> dict[str, list[Sample]]:
    """Measure the contestants round by round, each time beginning with another one; a first round is thrown away."""
    warm_up = 0 if scale.is_quick else 1
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(scale.rounds + warm_up):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            sample = await _one_round(contestants[name])
            if number >= warm_up:
                samples[name].append(sample)
    return samples


async def _one_round(contestant: Contestant) -> Sample:
    if contestant.before is not None:
        await contestant.before()
    gc.collect()
    wall, cpu = time.perf_counter(), contestant.cpu_s()
    times_s = await contestant.run()
    cpu_s, wall_s = contestant.cpu_s() - cpu, time.perf_counter() - wall
    count = len(times_s)
    return Sample(cpu_s / count * 1000, wall_s / count * 1000, median(times_s) * 1000)


async def timed(operations: Sequence[Callable[[], Awaitable[object]]]) -> list[float]:
    """Do operations one after the other; returns the wall seconds of each."""
    times: list[float] = []
    for operation in operations:
        started = time.perf_counter()
        await operation()
        times.append(time.perf_counter() - started)
    return times


def cpu_ms(samples: Sequence[Sample]) -> float:
    """Return the median CPU milliseconds of an operation."""
    return median(sample.cpu_ms for sample in samples)


def wall_ms(samples: Sequence[Sample]) -> float:
    """Return the median wall milliseconds of an operation."""
    return median(sample.wall_ms for sample in samples)


def p50_ms(samples: Sequence[Sample]) -> float:
    """Return the median over rounds of the median wall milliseconds of an operation."""
    return median(sample.p50_ms for sample in samples)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours over the peer's."""

    value: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.least:.2f}-{self.greatest:.2f})"

    def verdict(self, most: float) -> str:
        """Say whether the ratio is within its target."""
        return f"{'PASS' if self.value <= most else 'over'} <= {most}"


def ratio_of(ours: Sequence[Sample], peer: Sequence[Sample], figure: str = "cpu_ms") -> Ratio:
    """Return the ratio of the medians, and the extremes of the ratios of single rounds."""
    own = [getattr(sample, figure) for sample in ours]
    other = [getattr(sample, figure) for sample in peer]
    single = [a / b for a, b in zip(own, other, strict=True)]
    return Ratio(median(own) / median(other), min(single), max(single))
