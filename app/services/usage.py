"""What was used and what it cost."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Final, get_args

from app.domain.errors import InvalidInput
from app.domain.models.usage import TokenUsage, UsageGroup, UsageGrouping, UsagePage, UsageQuery, UsageStats
from app.domain.ports import UsageStore
from app.services.usage_pages import WIDTHS, bounds_of, buckets_of, floor_of

_SPAN: Final = re.compile(r"([0-9]{1,6})([dhm])")
_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}

MAX_RESULTS: Final = 50_000
"""Of one page: more than anyone reads, and some 50 MB."""

CSV_COLUMNS: Final = (
    "key",
    "requests",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "total_tokens",
    "cost_usd",
    "unpriced_requests",
    "estimated_requests",
)


class UsageService:
    """Usage grouped and in total, from the recorded model calls."""

    def __init__(self, store: UsageStore) -> None:
        """Read from the store; nothing is counted here."""
        self._store = store

    async def grouped(
        self,
        by: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        organization_id: str | None = None,
    ) -> Sequence[UsageGroup]:
        """Sum usage from `since` up to, not including, `until` over `by`; None: no bound, all organizations.

        The largest token count comes first; days come in order.

        Raises:
            InvalidInput: `by` is no grouping, or `until` is not after `since`.
        """
        grouping = _checked_grouping(by)
        if since is not None and until is not None and until <= since:
            raise InvalidInput("The end of the time range must be after its start.", param="until")
        return await self._store.grouped(grouping, organization_id=organization_id, since=since, until=until)

    async def over_time(self, query: UsageQuery, *, buckets: int, now: datetime | None = None) -> UsagePage:
        """Sum usage by minute, hour or day, over up to `buckets` of them from `query.start` on, empty ones included.

        Buckets that begin after `now` (the time of day if not given) are left out: nothing can be in them yet.

        Raises:
            InvalidInput: the range does not end after its start, or the page has more than 50,000 results.
        """
        if query.end <= query.start:
            raise InvalidInput("The end of the time range must be after its start.", param="end_time")
        last = floor_of(now or datetime.now(UTC), query.width) + WIDTHS[query.width]
        end = min(query.end, last)
        bounds = list(islice(bounds_of(query.start, end, query.width), buckets))
        if not bounds:
            return UsagePage((), None)
        page_end = bounds[-1][1]
        results = await self._store.over_time(replace(query, end=page_end), most=MAX_RESULTS + 1)
        if len(results) > MAX_RESULTS:
            message = f"More than {MAX_RESULTS} results: ask for fewer buckets, or group by less."
            raise InvalidInput(message, param="limit")
        return UsagePage(buckets_of(bounds, query.width, results), page_end if page_end < end else None)

    async def stats(
        self, *, since: datetime | None = None, until: datetime | None = None, organization_id: str | None = None
    ) -> UsageStats:
        """Return totals over all calls (`getUsageStats` of seed 001); None: no bound, all organizations.

        Raises:
            InvalidInput: `until` is not after `since`.
        """
        groups = await self.grouped("organization", since=since, until=until, organization_id=organization_id)
        tokens = sum((group.tokens for group in groups), TokenUsage())
        costs = [group.cost_usd for group in groups if group.cost_usd is not None]
        return UsageStats(
            total_prompt_tokens=tokens.input_tokens,
            total_completion_tokens=tokens.output_tokens,
            total_tokens=tokens.total_tokens,
            total_cost=sum(costs, Decimal(0)) if costs else None,
            request_count=tokens.requests,
            average_tokens_per_request=tokens.total_tokens / tokens.requests if tokens.requests else 0.0,
        )


def parse_since(text: str, *, now: datetime | None = None) -> datetime:
    """Return the start of a time range, in UTC: a span before now (`7d`, `24h`, `30m`) or an ISO date or time.

    A date means its midnight; without a zone, UTC is meant. `now` is the time of day if not given.

    Raises:
        InvalidInput: it is neither, or lies outside the calendar.
    """
    text = text.strip()
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[span[2]]: int(span[1])})
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            "A start is a span such as 7d, 24h or 30m, or an ISO date such as 2026-01-31 (UTC).", param="since"
        ) from error


def csv_lines(groups: Iterable[UsageGroup]) -> Iterator[str]:
    """Yield a header and one line a group, each ended by CRLF; an unknown cost or key is an empty field, never 0."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for row in (CSV_COLUMNS, *map(_csv_row, groups)):
        writer.writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _csv_row(group: UsageGroup) -> tuple[str | int, ...]:
    tokens = group.tokens
    return (
        group.key or "",
        tokens.requests,
        tokens.input_tokens,
        tokens.cached_tokens,
        tokens.cache_write_tokens,
        tokens.output_tokens,
        tokens.reasoning_tokens,
        tokens.total_tokens,
        "" if group.cost_usd is None else f"{group.cost_usd.normalize():f}",
        group.unpriced_requests,
        group.estimated_requests,
    )


def _checked_grouping(by: str) -> UsageGrouping:
    groupings: tuple[UsageGrouping, ...] = get_args(UsageGrouping)
    for grouping in groupings:
        if grouping == by:
            return grouping
    raise InvalidInput(f"Usage is grouped by one of: {', '.join(groupings)}.", param="by")
