"""Usage, summed from the rows that runs have recorded."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Float, Row, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.usage import TokenUsage, UsageGroup, UsageGrouping
from app.infrastructure.persistence.engine import reading
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
        tokens = [func.sum(run_usage.c[name]).label(name) for name in _TOKEN_COLUMNS]
        statement = select(
            _key(by, dialect).label("group_key"),
            *tokens,
            _sum_of_costs(dialect).label("cost"),
            func.sum(case((run_usage.c.cost_usd.is_(None), run_usage.c.requests), else_=0)).label("unpriced"),
            func.sum(case((run_usage.c.accuracy == "estimated", run_usage.c.requests), else_=0)).label("estimated"),
        ).group_by("group_key")
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
            return run_usage.c.agent
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
        tokens=TokenUsage(**{name: int(getattr(row, name)) for name in _TOKEN_COLUMNS}),
        cost_usd=_cost(row.cost),
        unpriced_requests=int(row.unpriced),
        estimated_requests=int(row.estimated),
    )
