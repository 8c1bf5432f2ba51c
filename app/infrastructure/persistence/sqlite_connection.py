"""A connection to SQLite that crosses to its thread once a statement.

aiosqlite makes a cursor, executes, fetches and closes in four trips to the connection's thread; each costs more CPU
than most of our statements. Here the four go together, behind the same interface: SQLAlchemy does not notice.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import aiosqlite

_PREFETCHED_ROWS = 64
"""aiosqlite's own number for iteration, which nothing of ours uses."""


class OneTripCursor:
    """A cursor that has fetched everything by the time a statement is done."""

    def __init__(self, run: Callable[..., Awaitable[Any]], connection: Callable[[], sqlite3.Connection]) -> None:
        """`run` calls a function in the connection's thread."""
        self._run = run
        self._sqlite = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        """Open nothing: the cursor is made with its statement."""
        return self

    async def execute(self, operation: str, parameters: Sequence[Any] | None = None) -> Self:
        """Execute one statement and fetch its rows."""
        return await self._trip(lambda cursor: cursor.execute(operation, parameters or ()))

    async def executemany(self, operation: str, parameters: Sequence[Sequence[Any]]) -> Self:
        """Execute a statement once for each set of parameters."""
        return await self._trip(lambda cursor: cursor.executemany(operation, parameters))

    async def fetchall(self) -> list[Any]:
        """Return the rows that have not been returned yet."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Close nothing: it was closed with its statement."""

    async def _trip(self, statement: Callable[[sqlite3.Cursor], Any]) -> Self:
        def work() -> tuple[Any, int, int | None, list[Any]]:
            cursor = self._sqlite().cursor()
            try:
                statement(cursor)
                rows = cursor.fetchall() if cursor.description else []
                return cursor.description, cursor.rowcount, cursor.lastrowid, rows
            finally:
                cursor.close()

        self.description, self.rowcount, self.lastrowid, self._rows = await self._run(work)
        return self


class OneTripConnection(aiosqlite.Connection):
    """aiosqlite's connection with cursors of one trip, and no trip to roll back what has not begun."""

    def cursor(self) -> Any:
        """Return a cursor; SQLAlchemy enters it."""
        return OneTripCursor(self._execute, lambda: self._conn)

    async def rollback(self) -> None:
        """Roll back, if there is something to."""
        if self._conn.in_transaction:
            await super().rollback()


async def connect(database: str, options: Mapping[str, Any]) -> aiosqlite.Connection:
    """Open a database; `options` are those of `sqlite3.connect`."""
    connection = OneTripConnection(lambda: sqlite3.connect(database, **options), _PREFETCHED_ROWS)
    connection._thread.daemon = True  # pyright: ignore[reportPrivateUsage] - as SQLAlchemy does for its own
    return await connection
