"""Writes many events at once, and tells which ids are somebody else's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.models.deliveries import OutboxEvent
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.tables import completion_events as events

_COLUMNS: Final = (
    *("id", "type", "version", "organization_id", "user_id", "session_id", "run_id", "outcome"),
    *("payload", "created_at", "source"),
)
_TYPED: Final = (
    "id varchar, type varchar, version integer, organization_id varchar, user_id varchar, session_id varchar, "
    "run_id varchar, outcome varchar, payload text, created_at timestamptz, source varchar"
)
# One text whatever the number of rows: planned once, and sent in one round trip.
_INSERT: Final = text(
    f"WITH written AS (INSERT INTO completion_events ({', '.join(_COLUMNS)})"  # noqa: S608 - our own names
    f" SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS source({_TYPED})"
    " ON CONFLICT DO NOTHING RETURNING 1) SELECT count(*) FROM written"
)
_ASKED_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of events that were to be written."""

    new: int
    taken: frozenset[str] = frozenset()
    """Ids under which another organization has an event; nothing was written for them."""


async def record_events(connection: AsyncConnection, added: Sequence[OutboxEvent]) -> Recorded:
    """Write events as `insert_events` does, and tell which ids are somebody else's."""
    new = await insert_events(connection, added)
    return Recorded(new, frozenset() if new == len(added) else await _taken(connection, added))


async def insert_events(connection: AsyncConnection, added: Sequence[OutboxEvent]) -> int:
    """Write events within the caller's transaction, without those whose id, or run and type, are there already.

    Returns how many were new.
    """
    if not added:
        return 0
    # All writers in one order: two that bring the same events would wait for each other otherwise.
    ordered = sorted(added, key=lambda event: event.id)
    if connection.dialect.name == "postgresql":
        rows = [_row(event, event.created_at.isoformat()) for event in ordered]
        return (await connection.execute(_INSERT, {"rows": msgspec.json.encode(rows).decode()})).scalar_one()
    statement = sqlite.insert(events).on_conflict_do_nothing()
    rows = [{**_row(event, event.created_at), "payload": dict(event.payload)} for event in ordered]
    return (await connection.execute(statement, rows)).rowcount


async def _taken(connection: AsyncConnection, added: Sequence[OutboxEvent]) -> frozenset[str]:
    owners: dict[str, str] = {}
    for start in range(0, len(added), _ASKED_AT_ONCE):
        ids = [event.id for event in added[start : start + _ASKED_AT_ONCE]]
        found = await connection.execute(select(events.c.id, events.c.organization_id).where(events.c.id.in_(ids)))
        owners.update((row.id, row.organization_id) for row in found)
    return frozenset(
        event.id for event in added if owners.get(event.id, event.organization_id) != event.organization_id
    )


def _row(event: OutboxEvent, created_at: Any) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "version": event.version,
        "organization_id": event.organization_id,
        "user_id": event.user_id,
        "session_id": event.session_id,
        "run_id": event.run_id,
        "outcome": event.outcome,
        "payload": json_text.encode(event.payload),
        "created_at": created_at,
        "source": event.source,
    }
