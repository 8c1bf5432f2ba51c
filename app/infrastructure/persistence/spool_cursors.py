"""How far the files of spools are recorded; moved in the transaction that records."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.infrastructure.persistence.completion_tables import completion_spool_cursors as cursors

FORGET_AFTER: Final = timedelta(days=90)
"""A file that nobody has read from for so long is gone: its relay was killed before it could say so."""


class CursorMoved(Exception):
    """Another relay has read on in the same file; the transaction must not be committed."""


async def read_cursors(connection: AsyncConnection, segments: Iterable[str]) -> dict[str, int]:
    """Return how far files are recorded; those of which nothing is known are left out."""
    statement = select(cursors.c.segment, cursors.c.position).where(cursors.c.segment.in_(list(segments)))
    return {row.segment: row.position for row in await connection.execute(statement)}


async def move_cursors(connection: AsyncConnection, moves: Mapping[str, tuple[int | None, int]], now: datetime) -> None:
    """Move cursors within the caller's transaction: by file, from where (None: there was none) and to where.

    Raises:
        CursorMoved: one of them is elsewhere by now.
    """
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    for segment, (expected, position) in sorted(moves.items()):
        new = insert(cursors).values(segment=segment, position=position, updated_at=now)
        move = new.on_conflict_do_update(
            index_elements=["segment"],
            set_={"position": new.excluded.position, "updated_at": new.excluded.updated_at},
            where=cursors.c.position == (-1 if expected is None else expected),
        )
        if (await connection.execute(move)).rowcount != 1:
            raise CursorMoved


async def forget_cursors(connection: AsyncConnection, segments: Iterable[str], now: datetime) -> None:
    """Delete the cursors of files that are gone, and those that are stale, within the caller's transaction."""
    await connection.execute(
        delete(cursors).where(cursors.c.segment.in_(list(segments)) | (cursors.c.updated_at < now - FORGET_AFTER))
    )
