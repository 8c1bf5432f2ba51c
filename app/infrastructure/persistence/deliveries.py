"""Cursors, leases and deliveries of destinations."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, bindparam, delete, exists, func, null, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.models.deliveries import (
    Attempt,
    Delivery,
    DeliveryEnd,
    DestinationState,
    DestinationStats,
    DueDelivery,
    EventFilter,
    OutboxEvent,
    PlannedDelivery,
)
from app.infrastructure.persistence.clock_sql import now_ms as database_ms
from app.infrastructure.persistence.completion_tables import (
    completion_deliveries as deliveries,
)
from app.infrastructure.persistence.completion_tables import (
    completion_destinations as destinations,
)
from app.infrastructure.persistence.completion_tables import (
    completion_sequence,
)
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.outbox import following, matching, outbox_event, place_events
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.tables import completion_events as events

_ROWS_AT_ONCE: Final = 500
_PENDING: Final = deliveries.c.state == "pending"


class SqlDeliveryStore:
    """DeliveryStore over the shared engine, for SQLite and PostgreSQL.

    Leases go by the database's clock; attempts by the clock of whoever makes them.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def ensure(self, name: str, *, latest: bool) -> None:
        """Begin a cursor; see the port."""
        async with writing(self._engine) as connection:
            if latest:
                # What was recorded before must not come to it as new, only because nobody gave it a position yet.
                await place_events(connection)
            begin = func.coalesce(select(func.max(completion_sequence.c.last_position)).scalar_subquery(), 0)
            statement = _insert(connection, destinations).values(
                name=name,
                position=begin if latest else 0,
                lease_until_ms=0,
                failures=0,
                resume_at_ms=0,
                created_at=datetime.now(UTC),
            )
            await connection.execute(statement.on_conflict_do_nothing())

    async def forget(self, name: str) -> None:
        """Delete a destination's rows; see the port."""
        async with writing(self._engine) as connection:
            await connection.execute(delete(destinations).where(destinations.c.name == name))
            await connection.execute(delete(deliveries).where(deliveries.c.destination == name))

    async def claim(self, name: str, owner: str, lease_s: float) -> DestinationState | None:
        """Take or renew the lease; see the port."""
        free = or_(destinations.c.lease_owner == owner, destinations.c.lease_until_ms <= database_ms())
        statement = (
            update(destinations)
            .where(destinations.c.name == name, free)
            .values(lease_owner=owner, lease_until_ms=database_ms() + round(lease_s * 1000))
            .returning(destinations)
        )
        async with writing(self._engine) as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _state(row)

    async def release(self, name: str, owner: str) -> None:
        """Give the lease back; see the port."""
        mine = (destinations.c.name == name, destinations.c.lease_owner == owner)
        async with writing(self._engine) as connection:
            await connection.execute(update(destinations).where(*mine).values(lease_owner=null(), lease_until_ms=0))

    async def unread(self, state: DestinationState, organization_id: str | None, limit: int) -> Sequence[OutboxEvent]:
        """Return the events behind the cursor; see the port."""
        async with reading(self._engine) as connection:
            rows = await connection.execute(following(state.position, organization_id, limit))
            return [outbox_event(row) for row in rows.all()]

    async def plan(self, name: str, owner: str, position: int, wanted: Sequence[PlannedDelivery]) -> bool:
        """Move the cursor over events; see the port."""
        now = datetime.now(UTC)
        rows = [_new_row(name, planned.event, planned.key, now) for planned in wanted]
        async with writing(self._engine) as connection:
            if not await _held(connection, name, owner, {"position": position}):
                return False
            if rows:
                # A replay may have been there first. One text for all rows: building one with all values takes longer
                # than writing them.
                await connection.execute(_insert(connection, deliveries).on_conflict_do_nothing(), rows)
        return True

    async def due(self, name: str, now_ms: int, limit: int) -> Sequence[DueDelivery]:
        """Return deliveries whose time has come; see the port."""
        earlier = deliveries.alias("earlier")
        held_up = exists().where(
            earlier.c.destination == name,
            earlier.c.state == "pending",
            earlier.c.ordering_key == deliveries.c.ordering_key,
            earlier.c.position < deliveries.c.position,
            earlier.c.next_attempt_ms > now_ms,
        )
        own = [deliveries.c.ordering_key, deliveries.c.attempts, deliveries.c.first_failure_ms, deliveries.c.history]
        statement = (
            select(events, *own)
            .join_from(deliveries, events, events.c.id == deliveries.c.event_id)
            .where(deliveries.c.destination == name, _PENDING, deliveries.c.next_attempt_ms <= now_ms, ~held_up)
            .order_by(deliveries.c.position)
            .limit(limit)
        )
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        return [
            DueDelivery(outbox_event(row), row.ordering_key, row.attempts, row.first_failure_ms, _attempts(row.history))
            for row in rows
        ]

    async def next_due_ms(self, name: str, now_ms: int) -> int | None:
        """Return when the next delivery is due; see the port."""
        later = (deliveries.c.destination == name, _PENDING, deliveries.c.next_attempt_ms > now_ms)
        statement = select(func.min(deliveries.c.next_attempt_ms)).where(*later)
        async with reading(self._engine) as connection:
            return (await connection.execute(statement)).scalar_one_or_none()

    async def record(self, state: DestinationState, owner: str, ends: Sequence[DeliveryEnd]) -> bool:
        """Write what became of attempts; see the port."""
        now = datetime.now(UTC)
        done = update(deliveries).where(
            deliveries.c.destination == state.name, deliveries.c.event_id == bindparam("of_event")
        )
        async with writing(self._engine) as connection:
            health = {
                "failures": state.failures,
                "resume_at_ms": state.resume_at_ms,
                "last_success_ms": state.last_success_ms,
                "last_failure_ms": state.last_failure_ms,
                "last_error": state.last_error,
            }
            if not await _held(connection, state.name, owner, health):
                return False
            if ends:
                columns = ("state", "attempts", "next_attempt_ms", "first_failure_ms", "last_error", "history")
                changed = {name: bindparam(f"new_{name}") for name in (*columns, "delivered_at")}
                await connection.execute(done.values(changed), [_end_values(end, now) for end in ends])
        return True

    async def list(self, wanted: EventFilter, *, limit: int, after: str | None = None) -> Sequence[Delivery]:
        """Return deliveries, the newest event first; see the port."""
        if not all(map(can_exist, [*wanted.event_ids, *([after] if after else [])])):
            return []
        conditions = [*_matching(wanted)]
        if after is not None:
            before = select(func.max(deliveries.c.position)).where(deliveries.c.event_id == after).scalar_subquery()
            conditions.append(deliveries.c.position < before)
        statement = (
            select(deliveries)
            .where(*conditions)
            .order_by(deliveries.c.position.desc(), deliveries.c.destination)
            .limit(limit)
        )
        async with reading(self._engine) as connection:
            return [_delivery(row) for row in (await connection.execute(statement)).all()]

    async def redeliver(self, name: str, wanted: EventFilter) -> int:
        """Make deliveries due again; see the port."""
        conditions = [events.c.position.is_not(None), *matching(wanted)]
        if wanted.state is not None:
            of_event = and_(deliveries.c.destination == name, deliveries.c.event_id == events.c.id)
            conditions.append(exists().where(of_event, deliveries.c.state == wanted.state))
        total, position, now = 0, 0, datetime.now(UTC)
        while True:
            async with writing(self._engine) as connection:
                batch = select(events).where(events.c.position > position, *conditions).order_by(events.c.position)
                # Locked, so that they are not deleted for their age meanwhile.
                locked = batch.limit(_ROWS_AT_ONCE).with_for_update(read=True, key_share=True)
                found = (await connection.execute(locked)).all()
                if not found:
                    return total
                rows = [_new_row(name, outbox_event(row), None, now) for row in found]
                again = _insert(connection, deliveries).values(rows)
                fresh = ("state", "attempts", "next_attempt_ms", "first_failure_ms", "delivered_at")
                # The key stays as it was: whoever replays does not know how the destination orders.
                await connection.execute(
                    again.on_conflict_do_update(
                        index_elements=["destination", "event_id"],
                        set_={column: again.excluded[column] for column in fresh},
                    )
                )
            total, position = total + len(found), found[-1].position

    async def stats(self) -> Sequence[DestinationStats]:
        """Return all destinations with their counts; see the port."""
        async with reading(self._engine) as connection:
            last = (await connection.execute(select(func.max(completion_sequence.c.last_position)))).scalar_one() or 0
            rows = (await connection.execute(select(destinations).order_by(destinations.c.name))).all()
            counted = await connection.execute(
                select(deliveries.c.destination, deliveries.c.state, func.count()).group_by(
                    deliveries.c.destination, deliveries.c.state
                )
            )
            counts = {(name, state): number for name, state, number in counted.all()}
        return [
            DestinationStats(
                state=_state(row),
                pending=counts.get((row.name, "pending"), 0),
                delivered=counts.get((row.name, "delivered"), 0),
                dead=counts.get((row.name, "dead"), 0),
                unread=max(0, last - row.position),
            )
            for row in rows
        ]

    async def skip(self, name: str, organization_id: str) -> None:
        """Move a cursor over what is not its organization's; see the port."""
        wanted = exists().where(
            events.c.organization_id == organization_id, events.c.position > destinations.c.position
        )
        # One statement sees one state of both tables, and whatever is placed later gets a later position.
        last = select(completion_sequence.c.last_position).scalar_subquery()
        statement = (
            update(destinations)
            .where(destinations.c.name == name, destinations.c.position < last, ~wanted)
            .values(position=last)
        )
        async with writing(self._engine) as connection:
            await connection.execute(statement)

    async def prune(self, name: str, before: datetime) -> int:
        """Delete records of what is done; see the port."""
        old = (
            deliveries.c.destination == name,
            deliveries.c.state == "delivered",
            deliveries.c.delivered_at < before,
        )
        total = 0
        while True:
            async with writing(self._engine) as connection:
                batch = select(deliveries.c.event_id).where(*old).limit(_ROWS_AT_ONCE)
                gone = delete(deliveries).where(*old, deliveries.c.event_id.in_(batch))
                deleted = (await connection.execute(gone)).rowcount
            total += deleted
            if deleted < _ROWS_AT_ONCE:
                return total


async def _held(connection: AsyncConnection, name: str, owner: str, values: Mapping[str, Any]) -> bool:
    """Write to a destination's row if the lease is still the owner's; the row stays locked until the commit."""
    mine = (
        destinations.c.name == name,
        destinations.c.lease_owner == owner,
        destinations.c.lease_until_ms > database_ms(),
    )
    return (await connection.execute(update(destinations).where(*mine), dict(values))).rowcount == 1


def _matching(wanted: EventFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.organization_id is not None:
        conditions.append(deliveries.c.organization_id == wanted.organization_id)
    if wanted.destination is not None:
        conditions.append(deliveries.c.destination == wanted.destination)
    if wanted.state is not None:
        conditions.append(deliveries.c.state == wanted.state)
    if wanted.event_ids:
        conditions.append(deliveries.c.event_id.in_(wanted.event_ids))
    if wanted.since is not None:
        conditions.append(deliveries.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(deliveries.c.created_at < wanted.until)
    return conditions


def _end_values(end: DeliveryEnd, now: datetime) -> dict[str, Any]:
    return {
        "of_event": end.event_id,
        "new_state": end.state,
        "new_attempts": end.attempts,
        "new_next_attempt_ms": end.next_attempt_ms,
        "new_first_failure_ms": end.first_failure_ms,
        "new_last_error": next((one.error for one in reversed(end.history) if one.error), None),
        "new_history": [_stored(attempt) for attempt in end.history],
        "new_delivered_at": now if end.state == "delivered" else None,
    }


def _new_row(name: str, event: OutboxEvent, key: str | None, now: datetime) -> dict[str, Any]:
    return {
        "destination": name,
        "event_id": event.id,
        "position": event.position,
        "organization_id": event.organization_id,
        "ordering_key": key,
        "state": "pending",
        "attempts": 0,
        "next_attempt_ms": 0,
        "first_failure_ms": None,
        "last_error": None,
        "history": [],
        "created_at": now,
        "delivered_at": None,
    }


def _state(row: Row[Any]) -> DestinationState:
    return DestinationState(
        name=row.name,
        position=row.position,
        failures=row.failures,
        resume_at_ms=row.resume_at_ms,
        last_success_ms=row.last_success_ms,
        last_failure_ms=row.last_failure_ms,
        last_error=row.last_error,
    )


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        destination=row.destination,
        event_id=row.event_id,
        position=row.position,
        organization_id=row.organization_id,
        state=row.state,
        attempts=row.attempts,
        next_attempt_ms=row.next_attempt_ms,
        first_failure_ms=row.first_failure_ms,
        last_error=row.last_error,
        history=_attempts(row.history),
        created_at=row.created_at,
        delivered_at=row.delivered_at,
    )


def _attempts(stored: Sequence[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    return tuple(
        Attempt(
            at=datetime.fromisoformat(one["at"]),
            ok=one["ok"],
            status=one["status"],
            error=one["error"],
            latency_ms=one["latency_ms"],
            counted=one.get("counted", 0),
        )
        for one in stored
    )


def _stored(attempt: Attempt) -> dict[str, Any]:
    return {
        "at": attempt.at.isoformat(),
        "ok": attempt.ok,
        "status": attempt.status,
        "error": attempt.error,
        "latency_ms": attempt.latency_ms,
        "counted": attempt.counted,
    }


def _insert(connection: AsyncConnection, table: Any) -> Any:
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
