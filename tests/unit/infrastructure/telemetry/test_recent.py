"""Quantiles, rates and loads against a clock that tests turn."""

import math
import random
import statistics

import pytest

from app.infrastructure.telemetry import process_metrics
from app.infrastructure.telemetry.process_metrics import ProcessorLoad, memory_bytes
from app.infrastructure.telemetry.recent import RecentQuantiles, RecentRate


class Hand:
    """A clock's."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101, 2_048])
def test_quantiles_are_exact(count: int) -> None:
    values = list(range(1, count + 1))
    random.Random(count).shuffle(values)
    recent = RecentQuantiles()
    for value in values:
        recent.add(value)
    for share in (0.0, 0.5, 0.95, 0.99, 1.0):
        (found,) = recent.quantiles([share])
        assert sum(value <= found for value in values) >= share * count
        assert sum(value < found for value in values) < max(share * count, 1)


def test_quantiles_of_nothing() -> None:
    assert all(math.isnan(value) for value in RecentQuantiles().quantiles([0.5, 0.99]))


def test_old_values_are_forgotten() -> None:
    recent = RecentQuantiles(kept=10)
    for value in [*[1_000.0] * 50, *range(10)]:
        recent.add(value)
    assert recent.quantiles([1.0]) == [9]
    assert recent.quantiles([0.5]) == [statistics.median_low(range(10))]


def test_a_rate_is_of_the_last_full_seconds() -> None:
    hand = Hand()
    rate = RecentRate(10, hand)
    assert rate.per_second() == 0
    rate.add(50)
    assert rate.per_second() == 0, "the second is not over"
    hand.at += 1
    assert rate.per_second() == 5
    for _ in range(30):
        rate.add(20)
        hand.at += 1
    assert rate.per_second() == 20
    hand.at += 11
    assert rate.per_second() == 0
    hand.at += 16
    rate.add(1)
    assert rate.per_second() == 0, "the place of an old second holds nothing of it"
    hand.at += 1
    assert rate.per_second() == 0.1


def test_a_load_is_the_mean_since_the_look_before() -> None:
    clock, used = Hand(), Hand()
    load = ProcessorLoad(clock, used)
    clock.at, used.at = clock.at + 10, used.at + 5
    assert load.percent() == 50
    clock.at, used.at = clock.at + 1, used.at + 1
    assert load.percent() == 50, "two who look in turn get the same"
    clock.at, used.at = clock.at + 9, used.at + 19
    assert load.percent() == 200


def test_the_first_look_at_once() -> None:
    clock = Hand()
    assert ProcessorLoad(clock, Hand()).percent() == 0


def test_memory_is_what_the_process_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    held = memory_bytes()
    assert 5_000_000 < held < 1 << 40
    ballast = b"x" * 50_000_000
    assert memory_bytes() - held > 25_000_000
    del ballast
    monkeypatch.setattr(process_metrics, "_STATM", process_metrics.Path("/nowhere"))
    assert memory_bytes() > 5_000_000
