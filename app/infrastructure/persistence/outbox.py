"""The outbox: all completion events, in an order that readers can follow."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, delete, exists, func, literal, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.models.deliveries import WEBHOOK_PREFIX, EventFilter, OutboxEvent
from app.infrastructure.persistence.completion_tables import (
    completion_deliveries,
    completion_destinations,
    completion_sequence,
    webhook_endpoints,
)
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.recorded_events import insert_events
from app.infrastructure.persistence.tables import completion_events as events

_ROWS_AT_ONCE: Final = 500
"""Rows named by one statement: PostgreSQL and SQLite both limit how many values it may have."""


class SqlOutbox:
    """Outbox over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def append(self, added: Sequence[OutboxEvent]) -> int:
        """Write events that are not there yet; see the port."""
        if not added:
            return 0
        async with writing(self._engine) as connection:
            return await insert_events(connection, added)

    async def place(self, most: int) -> int:
        """Give positions to committed events; see the port."""
        async with reading(self._engine) as connection:
            waiting = (
                await connection.execute(select(events.c.id).where(events.c.position.is_(None)).limit(1))
            ).first()
        if waiting is None:
            return 0
        async with writing(self._engine) as connection:
            return await place_events(connection, most)

    async def find(self, wanted: EventFilter, *, limit: int, after: str | None = None) -> Sequence[OutboxEvent]:
        """Return events, the newest first; see the port."""
        if not all(map(can_exist, [*wanted.event_ids, *([after] if after else [])])):
            return []
        statement = select(events).where(*matching(wanted)).order_by(events.c.created_at.desc(), events.c.id.desc())
        async with reading(self._engine) as connection:
            if after is not None:
                found = await connection.execute(select(events.c.created_at).where(events.c.id == after))
                moment = found.scalar_one_or_none()
                if moment is None:
                    return []
                older = and_(events.c.created_at == moment, events.c.id < after)
                statement = statement.where(or_(events.c.created_at < moment, older))
            return [outbox_event(row) for row in (await connection.execute(statement.limit(limit))).all()]

    async def purge(
        self,
        before: datetime,
        destinations: Sequence[str] | None = None,
        *,
        batch_rows: int = _ROWS_AT_ONCE,
        dry_run: bool = False,
    ) -> int:
        """Delete events that nobody needs any more; see the port."""
        old = select(events.c.id, events.c.position).where(events.c.created_at < before, *_unneeded(destinations))
        if dry_run:
            async with reading(self._engine) as connection:
                return (await connection.execute(select(func.count()).select_from(old.subquery()))).scalar_one()
        most, total = min(batch_rows, _ROWS_AT_ONCE), 0
        for kind in (old.where(events.c.position.is_not(None)), old.where(events.c.position.is_(None))):
            # What lies before is done: every batch would otherwise go through all events that stay.
            reached, full = 0, True
            while full:
                batch = kind if not reached else kind.where(events.c.position > reached)
                found, deleted = await self._purge_batch(batch.order_by(events.c.position).limit(most))
                full, total = len(found) == most, total + deleted
                reached = (found[-1].position or 0) if found else 0
        return total

    async def _purge_batch(self, batch: Select[Any, Any]) -> tuple[Sequence[Row[Any, Any]], int]:
        """Delete a batch of events, unless one of them is asked for again meanwhile."""
        found: Sequence[Row[Any, Any]] = ()
        if self._engine.dialect.name == "sqlite":
            # Looked up outside the write transaction: while it is open, every other writer waits.
            async with reading(self._engine) as connection:
                found = (await connection.execute(batch)).all()
            if not found:
                return found, 0
        async with writing(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                found = (await connection.execute(batch.with_for_update(skip_locked=True, of=events))).all()
            named = events.c.id.in_([row.id for row in found])
            return found, (await connection.execute(delete(events).where(named, ~_owed()))).rowcount


async def place_events(connection: AsyncConnection, most: int | None = None) -> int:
    """Give positions to committed events that have none, in an open transaction; returns to how many. None: to all."""
    # Every later statement of this transaction sees what whoever had the lock before has committed.
    locked = select(completion_sequence.c.last_position).with_for_update()
    last = (await connection.execute(locked)).scalar_one_or_none()
    if last is None:
        first = _upsert(connection, completion_sequence).values(id=1, last_position=0).on_conflict_do_nothing()
        await connection.execute(first)
        last = (await connection.execute(locked)).scalar_one()
    chosen = (
        select(events.c.id, events.c.created_at)
        .where(events.c.position.is_(None))
        .order_by(events.c.created_at, events.c.id)
        .limit(most)
        .subquery()
    )
    order = func.row_number().over(order_by=(chosen.c.created_at, chosen.c.id)).label("number")
    numbered = select(chosen.c.id, order).subquery()
    placed = await connection.execute(
        update(events).values(position=last + numbered.c.number).where(events.c.id == numbered.c.id)
    )
    await connection.execute(update(completion_sequence).values(last_position=last + placed.rowcount))
    return placed.rowcount


def _owed() -> ColumnElement[bool]:
    return exists().where(completion_deliveries.c.event_id == events.c.id, completion_deliveries.c.state != "delivered")


def _unneeded(destinations: Sequence[str] | None) -> list[ColumnElement[bool]]:
    """Return the conditions on events that all destinations have passed, and none owes."""
    cursors, endpoints = completion_destinations, webhook_endpoints
    behind = or_(events.c.position.is_(None), cursors.c.position < events.c.position)
    # A tenant's endpoint stands still as long as its own organization has no events; a deleted one needs none.
    is_endpoint = cursors.c.name.startswith(WEBHOOK_PREFIX, autoescape=True)
    concerns = or_(~is_endpoint, endpoints.c.organization_id == events.c.organization_id)
    unread = (
        select(literal(1))
        .select_from(cursors.outerjoin(endpoints, endpoints.c.id == cursors.c.name))
        .where(behind, concerns)
    )
    if destinations is not None:
        unread = unread.where(cursors.c.name.in_(destinations))
    return [~_owed(), ~unread.exists()]


def matching(wanted: EventFilter) -> list[ColumnElement[bool]]:
    """Return the conditions on events."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.organization_id is not None:
        conditions.append(events.c.organization_id == wanted.organization_id)
    if wanted.since is not None:
        conditions.append(events.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(events.c.created_at < wanted.until)
    if wanted.event_ids:
        conditions.append(events.c.id.in_(wanted.event_ids))
    if wanted.types:
        conditions.append(events.c.type.in_(wanted.types))
    return conditions


def following(position: int, organization_id: str | None, limit: int) -> Select[Any]:
    """Return the statement for the events behind a position, in order."""
    statement = select(events).where(events.c.position > position)
    if organization_id is not None:
        statement = statement.where(events.c.organization_id == organization_id)
    return statement.order_by(events.c.position).limit(limit)


def outbox_event(row: Row[Any]) -> OutboxEvent:
    """Return the event of a row of `completion_events`."""
    return OutboxEvent(
        id=row.id,
        type=row.type,
        version=row.version,
        organization_id=row.organization_id,
        user_id=row.user_id,
        session_id=row.session_id,
        run_id=row.run_id,
        outcome=row.outcome,
        payload=row.payload,
        created_at=row.created_at,
        source=row.source,
        position=row.position or 0,
    )


def _upsert(connection: AsyncConnection, table: Any) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)
