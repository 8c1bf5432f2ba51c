"""Usage, summed from the rows that runs have recorded."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Float, Row, String, case, cast, false, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.usage import (
    BucketWidth,
    TokenUsage,
    UsageField,
    UsageGroup,
    UsageGrouping,
    UsageKind,
    UsageQuery,
    UsageResult,
)
from app.infrastructure.persistence.engine import reading
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.tables import run_usage

_COST_DIGITS = 10
"""Digits behind the point of `cost_usd`."""


class SqlUsageStore:
    """UsageStore over the shared engine, for SQLite and PostgreSQL; sums are made and stay exact in the database."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def grouped(
        self, by: UsageGrouping, *, organization_id: str | None, since: datetime | None, until: datetime | None = None
    ) -> Sequence[UsageGroup]:
        """Sum usage over one grouping; see the port."""
        dialect = self._engine.dialect.name
        statement = select(_key(by, dialect).label("group_key"), *_sums(dialect)).group_by("group_key")
        if organization_id is not None:
            statement = statement.where(run_usage.c.organization_id == organization_id)
        if since is not None:
            statement = statement.where(run_usage.c.created_at >= since)
        if until is not None:
            statement = statement.where(run_usage.c.created_at < until)
        async with reading(self._engine) as connection:
            groups = [_group(row) for row in (await connection.execute(statement)).all()]
        # Sorted here: the databases disagree on where NULL goes and on how text compares.
        if by == "day":
            return sorted(groups, key=lambda group: group.key or "")
        return sorted(groups, key=lambda group: (-group.tokens.total_tokens, group.key is None, group.key or ""))

    async def over_time(self, query: UsageQuery, *, most: int) -> Sequence[UsageResult]:
        """Sum usage by bucket and fields; see the port."""
        dialect = self._engine.dialect.name
        bucket = _bucket(query.width, dialect).label("bucket")
        fields = [_FIELDS[field].label(f"by_{field}") for field in query.group_by]
        # Named by position: the databases disagree on whether an expression with a parameter equals itself.
        grouped = [literal_column(str(number)) for number in range(1, len(fields) + 2)]
        statement = (
            select(bucket, *fields, *_sums(dialect))
            .where(
                run_usage.c.organization_id == query.organization_id,
                run_usage.c.created_at >= query.start,
                run_usage.c.created_at < query.end,
                *_conditions(query),
            )
            .group_by(*grouped)
            .order_by(literal_column("1"))
            .limit(most)
        )
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        return sorted((_result(row, query.group_by) for row in rows), key=_rank)


_FIELDS: Final[Mapping[UsageField, ColumnElement[str | None]]] = {
    "project_id": run_usage.c.project_id,
    "user_id": run_usage.c.user_id,
    "api_key_id": run_usage.c.api_key_id,
    "model": run_usage.c.model,
    # A call that belongs to no run has no agent.
    "agent": func.nullif(run_usage.c.agent, literal_column("''")),
}

_KINDS: Final[Mapping[UsageKind, Sequence[ColumnElement[bool]]]] = {
    "all": (),
    "completions": (run_usage.c.endpoint != "embeddings",),
    "embeddings": (run_usage.c.endpoint == "embeddings",),
}

_TRUNCATED: Final[Mapping[BucketWidth, tuple[str, int]]] = {"1m": ("minute", 16), "1h": ("hour", 13), "1d": ("day", 10)}
"""PostgreSQL's word for a width, and how much of SQLite's `YYYY-MM-DD HH:MM:SS.ffffff` it is."""


def _bucket(width: BucketWidth, dialect: str) -> ColumnElement[Any]:
    unit, digits = _TRUNCATED[width]
    if dialect == "sqlite":  # stored in UTC, as text; its own functions of time round 59.9995 s up to the next minute
        return func.substr(run_usage.c.created_at, 1, digits, type_=String)
    return func.date_trunc(unit, run_usage.c.created_at, "UTC")


def _bucket_start(stored: datetime | str) -> datetime:
    if isinstance(stored, datetime):
        return stored.astimezone(UTC)
    return datetime.fromisoformat(f"{stored}:00" if len(stored) == len("2026-01-31 12") else stored).replace(tzinfo=UTC)


def _conditions(query: UsageQuery) -> list[ColumnElement[bool]]:
    conditions = list(_KINDS[query.kind])
    for field, values in query.only:
        known = sorted(value for value in values if can_exist(value))
        conditions.append(_FIELDS[field].in_(known) if known else false())
    return conditions


def _result(row: Row[Any], fields: Sequence[UsageField]) -> UsageResult:
    return UsageResult(
        bucket_start=_bucket_start(row.bucket),
        fields={field: getattr(row, f"by_{field}") for field in fields},
        tokens=_tokens(row),
        cost_usd=_cost(row.cost),
        unpriced_requests=int(row.unpriced),
        estimated_requests=int(row.estimated),
    )


def _rank(result: UsageResult) -> tuple[datetime, int, list[str]]:
    """Sorted here: the databases disagree on where NULL goes and on how text compares."""
    values = ["" if value is None else f"={value}" for value in result.fields.values()]
    return result.bucket_start, -result.tokens.total_tokens, values


def _sums(dialect: str) -> list[ColumnElement[Any]]:
    return [
        *(func.sum(run_usage.c[name]).label(name) for name in _TOKEN_COLUMNS),
        _sum_of_costs(dialect).label("cost"),
        func.sum(case((run_usage.c.cost_usd.is_(None), run_usage.c.requests), else_=0)).label("unpriced"),
        func.sum(case((run_usage.c.accuracy == "estimated", run_usage.c.requests), else_=0)).label("estimated"),
    ]


_TOKEN_COLUMNS = (
    "requests",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)


def _key(by: UsageGrouping, dialect: str) -> ColumnElement[Any]:
    match by:
        case "model":
            return run_usage.c.model
        case "agent":
            return func.nullif(run_usage.c.agent, literal_column("''"))  # a call that belongs to no run has none
        case "user":
            return run_usage.c.user_id
        case "organization":
            return run_usage.c.organization_id
        case "day":
            if dialect == "sqlite":  # stored in UTC, as text
                return func.date(run_usage.c.created_at)
            return func.to_char(func.timezone("UTC", run_usage.c.created_at), "YYYY-MM-DD")


def _sum_of_costs(dialect: str) -> ColumnElement[Any]:
    """Return the exact sum: a decimal, or on SQLite an integer in units of the last digit.

    SQLite keeps an amount as text and would sum floats. One amount in units of 1e-10 USD is far below 2^53, so rounding
    its float gives exactly that integer, and integers are summed without loss (up to 900 million USD).
    """
    if dialect != "sqlite":
        return func.sum(run_usage.c.cost_usd)
    units = func.round(cast(run_usage.c.cost_usd, Float) * 10.0**_COST_DIGITS)
    return func.sum(cast(units, BigInteger))


def _cost(stored: Decimal | int | None) -> Decimal | None:
    return Decimal(stored).scaleb(-_COST_DIGITS) if isinstance(stored, int) else stored


def _group(row: Row[Any]) -> UsageGroup:
    return UsageGroup(
        key=row.group_key,
        tokens=_tokens(row),
        cost_usd=_cost(row.cost),
        unpriced_requests=int(row.unpriced),
        estimated_requests=int(row.estimated),
    )


def _tokens(row: Row[Any]) -> TokenUsage:
    return TokenUsage(**{name: int(getattr(row, name)) for name in _TOKEN_COLUMNS})
