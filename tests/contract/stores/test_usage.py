from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.usage import TokenUsage, UsageGrouping
from app.infrastructure.persistence.tables import run_usage
from app.infrastructure.persistence.usage import SqlUsageStore
from tests.contract.stores.rows import NOON, insert_all, usage_row

ONE = TokenUsage(
    requests=1, input_tokens=100, cached_tokens=40, cache_write_tokens=5, output_tokens=10, reasoning_tokens=3
)


@pytest.fixture
def store(engine: AsyncEngine) -> SqlUsageStore:
    return SqlUsageStore(engine)


async def test_no_rows_are_no_groups(store: SqlUsageStore) -> None:
    assert list(await store.grouped("model", organization_id=None, since=None)) == []


async def test_every_count_is_summed(store: SqlUsageStore, engine: AsyncEngine) -> None:
    await insert_all(engine, run_usage, [usage_row(cost="0.5"), usage_row(cost="0.25")])
    (group,) = await store.grouped("model", organization_id="acme", since=None)
    assert group.key == "gpt-5-mini"
    assert group.tokens == ONE + ONE
    assert all(type(count) is int for count in (group.tokens.input_tokens, group.tokens.requests))
    assert group.cost_usd == Decimal("0.75")
    assert (group.unpriced_requests, group.estimated_requests) == (0, 0)


@pytest.mark.parametrize(
    "costs",
    [
        ["0.1", "0.2"],
        ["0.0000000001"] * 7,
        ["0.0000000001", "12345.6789012345", "1E-7", "0", "3.3E-10"],
        ["123456.7890123456", "-0.0000000001"],
        ["0.0003275"] * 1000,
    ],
)
async def test_money_is_summed_exactly(store: SqlUsageStore, engine: AsyncEngine, costs: list[str]) -> None:
    rows = [usage_row(cost=cost, step=f"/m{number}") for number, cost in enumerate(costs)]
    await insert_all(engine, run_usage, rows)
    (group,) = await store.grouped("model", organization_id="acme", since=None)
    assert group.cost_usd == sum(map(Decimal, costs), Decimal(0)).quantize(Decimal("1e-10"))


async def test_unpriced_and_estimated_requests_are_counted(store: SqlUsageStore, engine: AsyncEngine) -> None:
    await insert_all(
        engine,
        run_usage,
        [
            usage_row(model="priced", cost="0.1"),
            usage_row(model="priced", cost="0", accuracy="estimated"),
            usage_row(model="mixed", cost="0.1"),
            usage_row(model="mixed", cost=None, requests=2),
            usage_row(model="unknown", cost=None, accuracy="estimated", requests=3),
        ],
    )
    groups = {group.key: group for group in await store.grouped("model", organization_id=None, since=None)}
    seen = {key: (g.cost_usd, g.unpriced_requests, g.estimated_requests) for key, g in groups.items()}
    assert seen == {
        "priced": (Decimal("0.1"), 0, 1),
        "mixed": (Decimal("0.1"), 2, 0),
        "unknown": (None, 3, 3),
    }


async def test_one_organization_never_counts_anothers(store: SqlUsageStore, engine: AsyncEngine) -> None:
    await insert_all(
        engine, run_usage, [usage_row(), usage_row(organization_id="globex", model="other", user_id="eve")]
    )
    groupings: list[tuple[UsageGrouping, str]] = [
        ("model", "gpt-5-mini"),
        ("agent", "helper"),
        ("user", "anna"),
        ("organization", "acme"),
        ("day", "2026-03-01"),
    ]
    for by, key in groupings:
        (group,) = await store.grouped(by, organization_id="acme", since=None)
        assert (group.key, group.tokens) == (key, ONE)
    assert [g.key for g in await store.grouped("organization", organization_id=None, since=None)] == ["acme", "globex"]


async def test_groups_come_largest_first_and_no_user_is_a_group(store: SqlUsageStore, engine: AsyncEngine) -> None:
    await insert_all(
        engine,
        run_usage,
        [
            usage_row(user_id="small", input_tokens=100, output_tokens=0),
            usage_row(user_id="large", input_tokens=50, output_tokens=900),
            usage_row(user_id=None, input_tokens=100, output_tokens=0),
            usage_row(user_id="Small", input_tokens=100, output_tokens=0),
        ],
    )
    groups = await store.grouped("user", organization_id="acme", since=None)
    assert [group.key for group in groups] == ["large", "Small", "small", None]


async def test_a_call_of_no_run_has_no_agent(store: SqlUsageStore, engine: AsyncEngine) -> None:
    await insert_all(engine, run_usage, [usage_row(agent=""), usage_row(agent="helper")])
    groups = await store.grouped("agent", organization_id="acme", since=None)
    assert {group.key for group in groups} == {None, "helper"}


async def test_days_are_days_in_utc_and_come_in_order(store: SqlUsageStore, engine: AsyncEngine) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    auckland = timezone(timedelta(hours=13))
    moments = [
        midnight - timedelta(microseconds=1),
        midnight,
        midnight + timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999),
        datetime(2026, 3, 2, 13, 30, tzinfo=auckland),
        datetime(2026, 3, 2, 12, 30, tzinfo=auckland),
    ]
    await insert_all(engine, run_usage, [usage_row(created_at=at, cost="0.1") for at in moments])
    groups = await store.grouped("day", organization_id=None, since=None)
    assert [(g.key, g.tokens.requests, g.cost_usd) for g in groups] == [
        ("2026-02-28", 1, Decimal("0.1")),
        ("2026-03-01", 3, Decimal("0.3")),
        ("2026-03-02", 1, Decimal("0.1")),
    ]


async def test_since_is_included_and_until_is_not(store: SqlUsageStore, engine: AsyncEngine) -> None:
    hour = timedelta(hours=1)
    rows = [
        usage_row(created_at=NOON + offset, agent=name) for name, offset in [("a", -hour), ("b", 0 * hour), ("c", hour)]
    ]
    await insert_all(engine, run_usage, rows)

    async def agents(since: datetime | None, until: datetime | None) -> list[str | None]:
        return [g.key for g in await store.grouped("agent", organization_id="acme", since=since, until=until)]

    assert await agents(NOON, NOON + hour) == ["b"]
    assert await agents(NOON, None) == ["b", "c"]
    assert await agents(None, NOON) == ["a"]
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-8)))
    assert await agents(elsewhere, elsewhere + hour) == ["b"]
