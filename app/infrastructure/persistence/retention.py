"""Deletes what is no longer wanted, a little at a time: of finished runs, of delivered events."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Table, and_, delete, func, not_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.models.retention import Expiry, Pruned
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.outbox import SqlOutbox
from app.infrastructure.persistence.stateless import forget_stateless
from app.infrastructure.persistence.tables import run_events, run_steps, runs

_MOST_ROWS: Final = 1000
"""Rows named by one statement: PostgreSQL and SQLite both limit how many values it may have."""


class SqlRunRetention:
    """RunRetention over the shared engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Delete in the engine's database."""
        self._engine = engine

    async def prune(self, expiry: Expiry, *, batch_rows: int, dry_run: bool = False) -> Pruned:
        """Delete old rows; see the port."""
        deltas = events = steps = 0
        batch_rows = min(batch_rows, _MOST_ROWS)
        told: list[ColumnElement[bool]] = []
        if expiry.deltas_before is not None:
            old = _old_rows(run_events, expiry.deltas_before, run_events.c.kind == "delta")
            deltas = await self._delete(run_events, old, batch_rows, dry_run)
            # A dry run leaves them where they are: they must not be counted a second time as events.
            counted = and_(run_events.c.kind == "delta", runs.c.finished_at < expiry.deltas_before)
            told = [not_(counted)] if dry_run else []
        if expiry.journal_before is not None:
            # The last event says how the run ended: whoever reads the run later gets it.
            old = _old_rows(run_events, expiry.journal_before, run_events.c.sequence < runs.c.last_sequence, *told)
            events = await self._delete(run_events, old, batch_rows, dry_run)
            steps = await self._delete(run_steps, _old_rows(run_steps, expiry.journal_before), batch_rows, dry_run)
        completions = forgotten = 0
        if expiry.stateless_before is not None:
            forgotten = await forget_stateless(self._engine, expiry.stateless_before, batch_rows, dry_run=dry_run)
        if expiry.completions_before is not None:
            outbox = SqlOutbox(self._engine)
            completions = await outbox.purge(expiry.completions_before, None, batch_rows=batch_rows, dry_run=dry_run)
        return Pruned(deltas, events, steps, completions, forgotten)

    async def _delete(self, table: Table, old: Select[Any], batch_rows: int, dry_run: bool) -> int:
        if dry_run:
            async with reading(self._engine) as connection:
                return (await connection.execute(select(func.count()).select_from(old.subquery()))).scalar_one()
        total = 0
        # What lies before is done: every batch would otherwise go through all runs that the ones before it emptied.
        reached: datetime | None = None
        while True:
            batch = (old if reached is None else old.where(runs.c.finished_at >= reached)).limit(batch_rows)
            found, deleted = await self._delete_batch(table, batch)
            total += deleted
            if len(found) < batch_rows:
                return total
            reached = found[-1].finished_at

    async def _delete_batch(self, table: Table, batch: Select[Any]) -> tuple[list[Any], int]:
        if self._engine.dialect.name == "sqlite":
            # Looked up outside the write transaction: while it is open, every other writer waits.
            async with reading(self._engine) as connection:
                found = list((await connection.execute(batch)).all())
            if not found:
                return found, 0
            async with writing(self._engine) as connection:
                return found, await _delete_named(connection, table, found)
        async with writing(self._engine) as connection:
            # Several processes may prune at once: what one of them has locked, the others leave to it.
            found = list((await connection.execute(batch.with_for_update(skip_locked=True, of=table))).all())
            return found, await _delete_named(connection, table, found) if found else 0


def _old_rows(table: Table, moment: datetime, *conditions: ColumnElement[bool]) -> Select[Any]:
    """Return the keys of the rows of runs that ended before the moment, first those of the run that ended first."""
    return (
        select(*table.primary_key, runs.c.finished_at)
        .join_from(runs, table, table.c.run_id == runs.c.id)
        .where(runs.c.finished_at < moment, *conditions)
        .order_by(runs.c.finished_at)
    )


async def _delete_named(connection: AsyncConnection, table: Table, found: list[Any]) -> int:
    keys = list(table.primary_key)
    named = [tuple(row)[: len(keys)] for row in found]
    return (await connection.execute(delete(table).where(tuple_(*keys).in_(named)))).rowcount
