"""Writes many events at once, and tells which ids are somebody else's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.models.deliveries import OutboxEvent
from app.domain.written_json import WrittenObject
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.tables import completion_events as events

_COLUMNS: Final = (
    *("id", "type", "version", "organization_id", "user_id", "session_id", "run_id", "outcome"),
    *("payload", "created_at", "source"),
)
_KINDS: Final = {"version": "int4", "created_at": "timestamptz"}
_ARRAYS: Final = [f"${at}::{_KINDS.get(name, 'varchar')}[]" for at, name in enumerate(_COLUMNS, 1)]
# One text whatever the number of rows: planned once, and sent in one round trip. Arrays cost the server less than JSON;
# the driver looks at each value twice, so what is the same in all rows is sent once.
_VALUES: Final = ", ".join(
    f"CASE WHEN cardinality({array}) = 1 THEN ({array})[1] ELSE {name} END"
    for name, array in zip(_COLUMNS, _ARRAYS, strict=True)
)
_INSERT: Final = (
    f"INSERT INTO completion_events ({', '.join(_COLUMNS)}) SELECT {_VALUES} "  # noqa: S608 - our own names
    f"FROM unnest({', '.join(_ARRAYS)}) AS source({', '.join(_COLUMNS)}) ON CONFLICT DO NOTHING"
)
_INSERT_ROW: Final = (
    f"INSERT INTO completion_events ({', '.join(_COLUMNS)}) "  # noqa: S608 - as above
    f"VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT DO NOTHING"
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
    # Past the types of the table, which cost more than the rest of a row: this is where all events come through.
    if connection.dialect.name == "postgresql":
        arrays = [_array(column) for column in _columns(ordered)]
        return (await connection.exec_driver_sql(_INSERT, tuple(arrays))).rowcount
    rows = [*zip(*_columns(ordered, _sqlite_time), strict=True)]
    return (await connection.exec_driver_sql(_INSERT_ROW, rows)).rowcount


async def _taken(connection: AsyncConnection, added: Sequence[OutboxEvent]) -> frozenset[str]:
    owners: dict[str, str] = {}
    for start in range(0, len(added), _ASKED_AT_ONCE):
        ids = [event.id for event in added[start : start + _ASKED_AT_ONCE]]
        found = await connection.execute(select(events.c.id, events.c.organization_id).where(events.c.id.in_(ids)))
        owners.update((row.id, row.organization_id) for row in found)
    return frozenset(
        event.id for event in added if owners.get(event.id, event.organization_id) != event.organization_id
    )


def _columns(added: Sequence[OutboxEvent], moment: Callable[[datetime], Any] = lambda at: at) -> list[list[Any]]:
    # By column: a tuple for each row would be one more thing for the garbage collector to look at.
    return [
        [event.id for event in added],
        [event.type for event in added],
        [event.version for event in added],
        [event.organization_id for event in added],
        [event.user_id for event in added],
        [event.session_id for event in added],
        [event.run_id for event in added],
        [event.outcome for event in added],
        [_payload(event.payload) for event in added],
        [moment(event.created_at) for event in added],
        [event.source for event in added],
    ]


def _payload(payload: Mapping[str, Any]) -> str:
    return payload.text if type(payload) is WrittenObject else json_text.encode(payload)


def _array(column: list[Any]) -> list[Any]:
    return column[:1] if column.count(column[0]) == len(column) else column


def _sqlite_time(moment: datetime) -> str:
    """Return a moment as SQLAlchemy writes it, and reads it again: in UTC, without a zone."""
    return moment.astimezone(UTC).isoformat(" ", "microseconds")[:26]
