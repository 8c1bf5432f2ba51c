"""Deletes conversations that were to be forgotten with their runs, and whose process did not get to it."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, and_, delete, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.journal_sql import UNFINISHED_RUN
from app.infrastructure.persistence.tables import client_sessions, conversations, runs, sdk_sessions

_MOST_CONVERSATIONS: Final = 100
"""Deleted by one transaction: with each go all rows of its runs."""


async def forget_stateless(engine: AsyncEngine, before: datetime, batch_rows: int, *, dry_run: bool) -> int:
    """Delete stateless conversations that are older than a time and whose runs ended before it; returns how many.

    Usage and completion events stay. With `dry_run` all of it stays.
    """
    if dry_run:
        async with reading(engine) as connection:
            counted = select(func.count()).select_from(_forgettable(before).subquery())
            return (await connection.execute(counted)).scalar_one()
    total = 0
    batch = _forgettable(before).limit(min(batch_rows, _MOST_CONVERSATIONS))
    while deleted := await _delete_batch(engine, batch):
        total += deleted
    return total


def _forgettable(before: datetime) -> Select[Any, Any]:
    needed = and_(
        runs.c.conversation_id == conversations.c.id,
        or_(UNFINISHED_RUN, runs.c.finished_at >= before),
    )
    return (
        select(conversations.c.id, conversations.c.sdk_session_id)
        .where(conversations.c.stateless.is_not(None), conversations.c.created_at < before, ~exists().where(needed))
        .order_by(conversations.c.created_at)
    )


async def _delete_batch(engine: AsyncEngine, batch: Select[Any, Any]) -> int:
    if engine.dialect.name == "sqlite":
        # Looked up outside the write transaction: while it is open, every other writer waits.
        async with reading(engine) as connection:
            named = [row.id for row in (await connection.execute(batch)).all()]
        if not named:
            return 0
        batch = batch.where(conversations.c.id.in_(named))
    async with writing(engine) as connection:
        # Several processes may do this at once: what one of them has locked, the others leave to it.
        locked = batch.with_for_update(skip_locked=True, of=conversations)
        found = (await connection.execute(locked)).all()
        if found:
            await _delete(connection, [row.id for row in found], [row.sdk_session_id for row in found])
        return len(found)


async def _delete(connection: AsyncConnection, ids: list[str], sessions: list[str | None]) -> None:
    """Delete every row, in the order of locks that deleting a single conversation has."""
    await connection.execute(delete(conversations).where(conversations.c.id.in_(ids)))
    kept_here = [session for session in sessions if session is not None]
    await connection.execute(delete(sdk_sessions).where(sdk_sessions.c.session_id.in_(kept_here)))
    await connection.execute(delete(client_sessions).where(client_sessions.c.conversation_id.in_(ids)))
