"""How far destinations are, for those who watch: few rows, through the indexes of what is open."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.metrics_ports import WEBHOOK_ENDPOINTS, DestinationHealth, destination_label
from app.infrastructure.persistence.completion_tables import completion_deliveries as deliveries
from app.infrastructure.persistence.completion_tables import completion_destinations as destinations
from app.infrastructure.persistence.completion_tables import completion_sequence
from app.infrastructure.persistence.engine import reading
from app.infrastructure.persistence.tables import completion_events as events

# As the partial indexes say it, word for word: a bound value would not let them be used.
_PENDING: Final = text("state = 'pending'")
_DEAD: Final = text("state = 'dead'")


class SqlBacklog:
    """Backlog over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def destinations(self) -> Sequence[DestinationHealth]:
        """Return all destinations; see the port."""
        async with reading(self._engine) as connection:
            last = (await connection.execute(select(func.max(completion_sequence.c.last_position)))).scalar_one() or 0
            by_name: dict[str, list[Row[Any]]] = {}
            for row in (await connection.execute(select(destinations))).all():
                by_name.setdefault(destination_label(row.name), []).append(row)
            pending = _by_label(await connection.execute(_counted(_PENDING)))
            dead = _by_label(await connection.execute(_counted(_DEAD)))
            return [
                DestinationHealth(
                    name=name,
                    failures=max(row.failures for row in rows),
                    last_success_ms=_latest(row.last_success_ms for row in rows),
                    last_failure_ms=_latest(row.last_failure_ms for row in rows),
                    pending=sum(row.number for row in pending.get(name, ())),
                    dead=sum(row.number for row in dead.get(name, ())),
                    unread=max(0, last - min(row.position for row in rows)),
                    oldest_ms=await _oldest_ms(connection, rows, pending.get(name, ())),
                )
                for name, rows in sorted(by_name.items())
            ]


def _counted(condition: Any) -> Select[Any, int, Any]:
    first = func.min(deliveries.c.position).label("first")
    return (
        select(deliveries.c.destination, func.count().label("number"), first)
        .where(condition)
        .group_by(deliveries.c.destination)
    )


def _by_label(rows: Any) -> Mapping[str, Sequence[Row[Any]]]:
    by_name: dict[str, list[Row[Any]]] = {}
    for row in rows.all():
        by_name.setdefault(destination_label(row.destination), []).append(row)
    return by_name


async def _oldest_ms(
    connection: AsyncConnection, cursors: Sequence[Row[Any]], pending: Sequence[Row[Any]]
) -> int | None:
    """Return when the oldest event was recorded that is pending, or that no cursor has passed."""
    # Endpoints of tenants read everything, but get only their own: what they have not looked at is nobody's delay.
    is_tenants = destination_label(cursors[0].name) == WEBHOOK_ENDPOINTS
    unread = None if is_tenants else min(row.position for row in cursors) + 1
    first = min([*(row.first for row in pending), *([] if unread is None else [unread])], default=None)
    if first is None:
        return None
    oldest = select(events.c.created_at).where(events.c.position >= first).order_by(events.c.position).limit(1)
    moment = (await connection.execute(oldest)).scalar_one_or_none()
    return None if moment is None else int(moment.timestamp() * 1000)


def _latest(moments: Any) -> int | None:
    return max((moment for moment in moments if moment is not None), default=None)
