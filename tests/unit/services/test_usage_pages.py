"""Which buckets a range has, and what is refused before or after the store is asked."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidInput
from app.domain.models.usage import BucketWidth, TokenUsage, UsageBucket, UsagePage, UsageQuery, UsageResult
from app.services import usage
from app.services.usage import UsageService
from app.services.usage_pages import WIDTHS, bounds_of, csv_lines, floor_of
from tests.unit.services.fakes import Usage

WIDTH = st.sampled_from(get_args(BucketWidth))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


class Buckets(Usage):
    """A UsageStore that has one result in each bucket, as many as it is let."""

    def __init__(self, results: int = 0) -> None:
        super().__init__()
        self.results = results
        self.queries: list[UsageQuery] = []

    async def over_time(self, query: UsageQuery, *, most: int) -> Sequence[UsageResult]:
        self.queries.append(query)
        return [result(floor_of(query.start, query.width))] * min(self.results, most)


def result(start: datetime, cost: str | None = None) -> UsageResult:
    known = None if cost is None else Decimal(cost)
    return UsageResult(start, {"model": "m"}, TokenUsage(1, 2, 0, 0, 3), known, 0 if cost else 1, 0)


def query(start: datetime, end: datetime, width: BucketWidth = "1d") -> UsageQuery:
    return UsageQuery("acme", start, end, width)


@given(start=MOMENTS, seconds=st.integers(1, 500_000), width=WIDTH)
def test_buckets_cover_the_range_without_gaps(start: datetime, seconds: int, width: BucketWidth) -> None:
    end = start + timedelta(seconds=min(seconds, 300 * WIDTHS[width].total_seconds()))
    bounds = list(bounds_of(start, end, width))
    assert (bounds[0][0], bounds[-1][1]) == (start, end)
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert all(floor_of(bucket_end, width) == bucket_end for _, bucket_end in bounds[:-1])
    assert all(timedelta(0) < bucket_end - bucket_start <= WIDTHS[width] for bucket_start, bucket_end in bounds)


async def test_the_store_is_asked_for_the_page_alone() -> None:
    store = Buckets()
    page = await UsageService(store).over_time(
        query(NOON, NOON + timedelta(days=9)), buckets=2, now=NOON + timedelta(days=30)
    )
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert [(bucket.start, bucket.end) for bucket in page.buckets] == [
        (NOON, midnight),
        (midnight, midnight + timedelta(days=1)),
    ]
    assert page.next_start == midnight + timedelta(days=1)
    (asked,) = store.queries
    assert (asked.start, asked.end) == (NOON, midnight + timedelta(days=1))


async def test_nothing_that_has_not_begun_is_asked_for() -> None:
    store = Buckets()
    service = UsageService(store)
    page = await service.over_time(query(NOON, NOON + timedelta(days=9)), buckets=5, now=NOON)
    assert [bucket.end for bucket in page.buckets] == [datetime(2026, 3, 2, tzinfo=UTC)]
    assert page.next_start is None
    later = await service.over_time(query(NOON + timedelta(days=3), NOON + timedelta(days=9)), buckets=5, now=NOON)
    assert later == UsagePage((), None)
    assert len(store.queries) == 1


async def test_a_range_ends_after_its_start() -> None:
    with pytest.raises(InvalidInput) as caught:
        await UsageService(Buckets()).over_time(query(NOON, NOON), buckets=1)
    assert caught.value.param == "end_time"


async def test_a_page_has_a_bounded_number_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_RESULTS", 10)
    whole = query(NOON, NOON + timedelta(days=1))
    page = await UsageService(Buckets(10)).over_time(whole, buckets=1, now=NOON)
    assert len(page.buckets[0].results) == 10
    with pytest.raises(InvalidInput, match="fewer buckets"):
        await UsageService(Buckets(11)).over_time(whole, buckets=1, now=NOON)


def test_csv_leaves_the_unknown_empty_and_writes_no_exponents() -> None:
    bucket = UsageBucket(NOON, NOON + timedelta(days=1), (result(NOON, "1E-10"), result(NOON)))
    lines = list(csv_lines(UsagePage((bucket, UsageBucket(NOON, NOON, ())), None), ("model",)))
    assert lines == [
        "start_time,end_time,model,requests,input_tokens,cached_tokens,cache_write_tokens,output_tokens,"
        "reasoning_tokens,cost_usd,unpriced_requests,estimated_requests\r\n",
        "2026-03-01T12:00:00Z,2026-03-02T12:00:00Z,m,1,2,0,0,3,0,0.0000000001,0,0\r\n",
        "2026-03-01T12:00:00Z,2026-03-02T12:00:00Z,m,1,2,0,0,3,0,,1,0\r\n",
    ]
