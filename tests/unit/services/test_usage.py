import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.domain.errors import InvalidInput
from app.domain.models.usage import TokenUsage, UsageGroup, UsageStats
from app.services.usage import CSV_COLUMNS, UsageService, csv_lines, parse_since
from tests.unit.services.fakes import NOON, Usage


def group(key: str | None = "acme", cost: str | None = None, requests: int = 1, read: int = 100) -> UsageGroup:
    tokens = TokenUsage(requests, read, 40, 5, 10, 3)
    return UsageGroup(key, tokens, None if cost is None else Decimal(cost), 0, 0)


async def test_what_is_asked_reaches_the_store() -> None:
    store = Usage(group())
    found = await UsageService(store).grouped("day", since=NOON, until=NOON + timedelta(1), organization_id="acme")
    assert list(found) == [group()]
    assert store.asked == [("day", "acme", NOON, NOON + timedelta(1))]


@pytest.mark.parametrize("by", ["", "month", "Model", "user_id"])
async def test_other_groupings_are_refused(by: str) -> None:
    with pytest.raises(InvalidInput, match="model, agent, user, organization, day") as caught:
        await UsageService(Usage()).grouped(by)
    assert caught.value.param == "by"


@pytest.mark.parametrize("until", [NOON, NOON - timedelta(1)])
async def test_a_range_must_end_after_its_start(until: datetime) -> None:
    service = UsageService(Usage())
    for call in (service.grouped("day", since=NOON, until=until), service.stats(since=NOON, until=until)):
        with pytest.raises(InvalidInput) as caught:
            await call
        assert caught.value.param == "until"


async def test_totals_over_no_call_are_zero_and_cost_nothing_known() -> None:
    assert await UsageService(Usage()).stats() == UsageStats(0, 0, 0, None, 0, 0.0)


async def test_totals_are_exact() -> None:
    store = Usage(group("a", "0.1"), group("b", "0.2", requests=3, read=200), group("c"))
    stats = await UsageService(store).stats(organization_id="acme")
    assert stats == UsageStats(400, 30, 430, Decimal("0.3"), 5, 86.0)
    assert store.asked == [("organization", "acme", None, None)]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("7d", NOON - timedelta(days=7)),
        ("24h", NOON - timedelta(hours=24)),
        (" 30m ", NOON - timedelta(minutes=30)),
        ("0d", NOON),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T10:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T10:00:00+02:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("2026-01-31T10:00Z", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_starts_are_spans_or_dates(text: str, start: datetime) -> None:
    parsed = parse_since(text, now=NOON)
    assert parsed == start
    assert parsed.tzinfo is UTC


def test_spans_end_now_unless_told() -> None:
    assert abs(parse_since("1h") - (datetime.now(UTC) - timedelta(hours=1))) < timedelta(seconds=10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "d",
        "-7d",
        "7 d",
        "7w",
        "1.5h",
        "yesterday",
        "2026-02-30",
        "999999d",
        "9999999d",
        "٧d",
        "0001-01-01T00:00+14:00",
    ],
)
def test_other_starts_are_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"7d, 24h or 30m, or an ISO date") as caught:
        parse_since(text, now=NOON)
    assert caught.value.param == "since"


def test_lines_of_csv_are_quoted_and_say_unknown_by_an_empty_field() -> None:
    lines = list(csv_lines([group('a "b", c\nd', "0.0000000100"), group(None), group("e", "20")]))
    assert all(line.endswith("\r\n") for line in lines)
    head, first, second, third = csv.reader(lines)
    assert tuple(head) == CSV_COLUMNS
    assert first == ['a "b", c\nd', "1", "100", "40", "5", "10", "3", "110", "0.00000001", "0", "0"]
    assert (second[0], second[8]) == ("", "")
    assert third[8] == "20"
