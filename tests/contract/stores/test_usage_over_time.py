"""Usage by bucket: over both databases, against sums made by hand from the same rows."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.usage import BucketWidth, TokenUsage, UsageField, UsageQuery, UsageResult
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.tables import run_usage
from app.infrastructure.persistence.usage import SqlUsageStore
from app.services.usage_pages import floor_of
from tests.contract.stores.rows import NOON, insert_all, usage_row

DAY = timedelta(days=1)
FIELDS: tuple[UsageField, ...] = get_args(UsageField)
WIDTHS: tuple[BucketWidth, ...] = get_args(BucketWidth)


def query(**changes: Any) -> UsageQuery:
    asked: dict[str, Any] = {"organization_id": "acme", "start": NOON - 30 * DAY, "end": NOON + 30 * DAY}
    return UsageQuery(**asked | changes)


@pytest.fixture
def store(engine: AsyncEngine) -> SqlUsageStore:
    return SqlUsageStore(engine)


async def results(store: SqlUsageStore, **changes: Any) -> list[UsageResult]:
    return list(await store.over_time(query(**changes), most=1000))


async def test_a_bucket_ends_with_its_last_microsecond(store: SqlUsageStore, engine: AsyncEngine) -> None:
    last = timedelta(microseconds=1)
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    moments = [midnight - last, midnight, midnight + minute - last, midnight + hour - last, midnight + DAY - last]
    await insert_all(engine, run_usage, [usage_row(created_at=moment) for moment in moments])

    async def starts(width: BucketWidth) -> list[tuple[datetime, int]]:
        return [(found.bucket_start, found.tokens.requests) for found in await results(store, width=width)]

    assert await starts("1d") == [(midnight - DAY, 1), (midnight, 4)]
    assert await starts("1h") == [(midnight - hour, 1), (midnight, 3), (midnight + 23 * hour, 1)]
    assert await starts("1m") == [
        (midnight - minute, 1),
        (midnight, 2),
        (midnight + hour - minute, 1),
        (midnight + DAY - minute, 1),
    ]


async def test_rows_are_grouped_by_any_fields(store: SqlUsageStore, engine: AsyncEngine) -> None:
    rows = [
        usage_row(project_id="p1", api_key_id="k1", model="a", agent="", endpoint="chat/completions", cost="0.1"),
        usage_row(project_id="p1", api_key_id="k2", model="b", user_id=None),
        usage_row(project_id=None, api_key_id=None, model="a", input_tokens=1000, cost="0.2"),
    ]
    await insert_all(engine, run_usage, [{"endpoint": "run", "http_status": 200} | row for row in rows])
    by_project = await results(store, group_by=("project_id",))
    assert [(found.fields["project_id"], found.cost_usd, found.unpriced_requests) for found in by_project] == [
        (None, Decimal("0.2"), 0),
        ("p1", Decimal("0.1"), 1),
    ]
    everything = await results(store, group_by=FIELDS)
    assert [tuple(found.fields[field] for field in FIELDS) for found in everything] == [
        (None, "anna", None, "a", "helper"),
        ("p1", None, "k2", "b", "helper"),
        ("p1", "anna", "k1", "a", None),
    ]


@pytest.mark.parametrize(
    ("only", "models"),
    [
        ((), {"a", "b", "c"}),
        ((("model", frozenset({"a", "c"})),), {"a", "c"}),
        ((("model", frozenset({"a", "c"})), ("user_id", frozenset({"eve"}))), {"c"}),
        ((("project_id", frozenset({"p1"})),), {"b"}),
        ((("api_key_id", frozenset({"k1"})), ("agent", frozenset({"helper"}))), {"a"}),
        ((("api_key_id", frozenset({"k1"})), ("agent", frozenset({""}))), set[str]()),
        ((("model", frozenset({"a", "NUL \x00", "\ud83d"})),), {"a"}),
        ((("model", frozenset({"NUL \x00"})),), set[str]()),
        ((("user_id", frozenset[str]()),), set[str]()),
    ],
)
async def test_filters_all_hold(store: SqlUsageStore, engine: AsyncEngine, only: Any, models: set[str]) -> None:
    rows = [
        usage_row(model="a", project_id=None, api_key_id="k1"),
        usage_row(model="b", project_id="p1", api_key_id="k1", agent=""),
        usage_row(model="c", project_id="p2", api_key_id="k2", user_id="eve"),
        usage_row(model="theirs", project_id="p1", api_key_id="k1", organization_id="globex"),
    ]
    await insert_all(engine, run_usage, rows)
    assert {found.fields["model"] for found in await results(store, group_by=("model",), only=only)} == models


async def test_embeddings_are_not_completions(store: SqlUsageStore, engine: AsyncEngine) -> None:
    # A row of the release before says nothing of its endpoint: a run made it.
    await insert_all(engine, run_usage, [usage_row(model="run")])
    endpoints = ("chat/completions", "responses", "embeddings")
    await insert_all(engine, run_usage, [usage_row(model=name, endpoint=name) for name in endpoints])

    async def models(kind: str) -> set[str | None]:
        return {found.fields["model"] for found in await results(store, group_by=("model",), kind=kind)}

    assert await models("all") == {"run", *endpoints}
    assert await models("completions") == {"run", "chat/completions", "responses"}
    assert await models("embeddings") == {"embeddings"}


async def test_no_more_results_than_asked_for(store: SqlUsageStore, engine: AsyncEngine) -> None:
    await insert_all(engine, run_usage, [usage_row(created_at=NOON + number * DAY) for number in range(5)])
    found = await store.over_time(query(), most=3)
    assert [result.bucket_start.day for result in found] == [1, 2, 3]


MONEY = st.one_of(
    st.none(),
    st.decimals(min_value=0, max_value=100_000, places=10, allow_nan=False),
    st.sampled_from([Decimal("0.0000000001"), Decimal("1E-7"), Decimal("99999.9999999999"), Decimal(0)]),
)
ROWS = st.fixed_dictionaries(
    {
        "created_at": st.datetimes(
            datetime(2026, 2, 27),
            datetime(2026, 3, 3),
            timezones=st.just(UTC),
        ),
        "model": st.sampled_from(["a", "b"]),
        "user_id": st.sampled_from([None, "anna", "bert"]),
        "project_id": st.sampled_from([None, "p1"]),
        "cost_usd": MONEY,
        "requests": st.integers(0, 3),
        "input_tokens": st.integers(0, 10**12),
        "output_tokens": st.integers(0, 10**12),
    }
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROWS, max_size=30),
    width=st.sampled_from(WIDTHS),
    group_by=st.sets(st.sampled_from(FIELDS[:2] + FIELDS[3:4])).map(tuple),
)
async def test_costs_add_up_to_the_rows(
    engine: AsyncEngine, rows: list[dict[str, Any]], width: BucketWidth, group_by: tuple[UsageField, ...]
) -> None:
    """By the digit: every bucket and group is the sum of its rows, and nothing is in two or in none."""
    async with writing(engine) as connection:
        await connection.execute(delete(run_usage))
    if rows:
        await insert_all(engine, run_usage, [usage_row() | row for row in rows])
    expected: dict[Any, tuple[TokenUsage, list[Decimal], int]] = defaultdict(lambda: (TokenUsage(), [], 0))
    for row in rows:
        key = (floor_of(row["created_at"], width), *(row[field] for field in group_by))
        tokens, costs, unpriced = expected[key]
        tokens += TokenUsage(row["requests"], row["input_tokens"], 40, 5, row["output_tokens"], 3)
        known = row["cost_usd"] is not None
        expected[key] = (
            tokens,
            [*costs, row["cost_usd"]] if known else costs,
            unpriced + (0 if known else row["requests"]),
        )
    found = await SqlUsageStore(engine).over_time(query(width=width, group_by=group_by), most=1000)
    seen = {
        (result.bucket_start, *(result.fields[field] for field in group_by)): (
            result.tokens,
            result.cost_usd,
            result.unpriced_requests,
        )
        for result in found
    }
    assert seen == {
        key: (tokens, sum(costs, Decimal(0)) if costs else None, unpriced)
        for key, (tokens, costs, unpriced) in expected.items()
    }
    paid = [result.cost_usd for result in found if result.cost_usd is not None]
    assert sum(paid, Decimal(0)) == sum((row["cost_usd"] for row in rows if row["cost_usd"] is not None), Decimal(0))
