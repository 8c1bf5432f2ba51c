"""Deletes what is no longer wanted of finished runs, a little at a time."""

from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, exists, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.runs import Expiry, Pruned
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.tables import run_events, run_steps, runs


class SqlRunRetention:
    """RunRetention over the shared engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Delete in the engine's database."""
        self._engine = engine

    async def prune(self, expiry: Expiry, *, batch_rows: int, dry_run: bool = False) -> Pruned:
        """Delete old rows; see the port."""
        deltas = events = steps = 0
        if expiry.deltas_before is not None:
            old = _of_runs_before(run_events, expiry.deltas_before)
            deltas = await self._delete(run_events, and_(run_events.c.kind == "delta", old), batch_rows, dry_run)
        if expiry.journal_before is not None:
            # The last event says how the run ended: whoever reads the run later gets it.
            old = _of_runs_before(run_events, expiry.journal_before, run_events.c.sequence < runs.c.last_sequence)
            events = await self._delete(run_events, old, batch_rows, dry_run)
            old = _of_runs_before(run_steps, expiry.journal_before)
            steps = await self._delete(run_steps, old, batch_rows, dry_run)
        return Pruned(deltas, events, steps)

    async def _delete(self, table: Table, old: ColumnElement[bool], batch_rows: int, dry_run: bool) -> int:
        if dry_run:
            async with reading(self._engine) as connection:
                counted = select(func.count()).select_from(table).where(old)
                return (await connection.execute(counted)).scalar_one()
        keys = list(table.primary_key)
        # Several processes may prune at once: what one of them has locked, the others leave to it.
        batch = select(*keys).where(old).limit(batch_rows).with_for_update(skip_locked=True, of=table)
        total = 0
        while True:
            async with writing(self._engine) as connection:
                found = (await connection.execute(batch)).all()
                if found:
                    named = [tuple(row) for row in found]
                    await connection.execute(delete(table).where(tuple_(*keys).in_(named)))
            total += len(found)
            if len(found) < batch_rows:
                return total


def _of_runs_before(table: Table, moment: Any, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(runs.c.id == table.c.run_id, runs.c.finished_at < moment, *conditions)
