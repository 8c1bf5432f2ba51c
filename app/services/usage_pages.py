"""Usage over time: which buckets a range has, which of them a page shows, and what was used in each."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from app.domain.models.usage import BucketWidth, UsageBucket, UsageField, UsagePage, UsageResult

WIDTHS: Final[Mapping[BucketWidth, timedelta]] = {
    "1m": timedelta(minutes=1),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}

CSV_COUNTS: Final = (
    "requests",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "unpriced_requests",
    "estimated_requests",
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def floor_of(moment: datetime, width: BucketWidth) -> datetime:
    """Return the start of the minute, hour or day (UTC) that a moment lies in."""
    return moment.astimezone(UTC) - (moment - _EPOCH) % WIDTHS[width]


def bounds_of(start: datetime, end: datetime, width: BucketWidth) -> Iterator[tuple[datetime, datetime]]:
    """Yield the start and end of each bucket from `start` to `end`; the first and last one may be parts of one."""
    while start < end:
        bucket_end = min(floor_of(start, width) + WIDTHS[width], end)
        yield start, bucket_end
        start = bucket_end


def buckets_of(
    bounds: Sequence[tuple[datetime, datetime]], width: BucketWidth, results: Sequence[UsageResult]
) -> list[UsageBucket]:
    """Return the buckets with their results, in order; those without any are there, too."""
    found: dict[datetime, list[UsageResult]] = {}
    for result in results:
        found.setdefault(result.bucket_start, []).append(result)
    return [UsageBucket(start, end, found.get(floor_of(start, width), ())) for start, end in bounds]


def csv_lines(page: UsagePage, group_by: Sequence[UsageField]) -> Iterator[str]:
    """Yield a header and one line a result, each ended by CRLF; times are ISO 8601 in UTC.

    An unknown cost or value is an empty field, never 0. A bucket in which nothing was used has no line.
    """
    yield csv_line(("start_time", "end_time", *group_by, *CSV_COUNTS))
    for bucket in page.buckets:
        for result in bucket.results:
            values = [result.fields[field] or "" for field in group_by]
            yield csv_line((_iso(bucket.start), _iso(bucket.end), *values, *_counts(result)))


def csv_line(values: Sequence[str | int]) -> str:
    """Return one line of CSV."""
    buffer = io.StringIO()
    csv.writer(buffer).writerow(values)
    return buffer.getvalue()


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _counts(result: UsageResult) -> tuple[str | int, ...]:
    tokens = result.tokens
    return (
        tokens.requests,
        tokens.input_tokens,
        tokens.cached_tokens,
        tokens.cache_write_tokens,
        tokens.output_tokens,
        tokens.reasoning_tokens,
        "" if result.cost_usd is None else f"{result.cost_usd.normalize():f}",
        result.unpriced_requests,
        result.estimated_requests,
    )
