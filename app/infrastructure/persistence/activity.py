"""When agents were last used."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.engine import reading
from app.infrastructure.persistence.tables import runs


class SqlAgentActivity:
    """AgentActivity over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def last_seen(self) -> Mapping[str, datetime]:
        """Return the start of the latest run of every agent that ever ran; see the port."""
        async with reading(self._engine) as connection:
            rows = (await connection.execute(_LAST_SEEN)).all()
        return {row.agent: row.last_seen for row in rows}


def _last_seen() -> Select[Any, Any]:
    """Hop through the index (agent, created_at) from one agent to the next.

    Two index look-ups an agent; `GROUP BY agent` would read the entry of every run there ever was.
    """
    first = select(func.min(runs.c.agent).label("agent")).cte("known", recursive=True)
    following = select(func.min(runs.c.agent)).where(runs.c.agent > first.c.agent).scalar_subquery()
    known = first.union_all(select(following).where(first.c.agent.is_not(None)))
    latest = select(func.max(runs.c.created_at)).where(runs.c.agent == known.c.agent).scalar_subquery()
    return select(known.c.agent, latest.label("last_seen")).where(known.c.agent.is_not(None))


_LAST_SEEN = _last_seen()
