"""A connection to SQLite that crosses to its thread as rarely as it can.

aiosqlite makes a cursor, executes, fetches and closes in four trips to the connection's thread; each costs more CPU
than most of our statements. Here the four go together, behind the same interface: SQLAlchemy does not notice. What has
no answer to wait for goes with the next trip: BEGIN always, and writes inside of `deferred`.
"""

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

import aiosqlite

_PREFETCHED_ROWS = 64
"""aiosqlite's own number for iteration, which nothing of ours uses."""


Statement = Callable[[sqlite3.Cursor], Any]
_BEGINNINGS: Final = frozenset({"BEGIN", "BEGIN IMMEDIATE"})


class OneTripCursor:
    """A cursor that has fetched everything by the time a statement is done."""

    def __init__(self, connection: "OneTripConnection") -> None:
        """Work in the connection's thread."""
        self._connection = connection
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
        if operation in _BEGINNINGS:
            self._connection.later(lambda cursor: cursor.execute(operation))
            return self
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

    async def _trip(self, statement: Statement) -> Self:
        if self._connection.defers:
            self._connection.later(statement)
            return self

        def work(cursor: sqlite3.Cursor) -> tuple[Any, int, int | None, list[Any]]:
            statement(cursor)
            rows = cursor.fetchall() if cursor.description else []
            return cursor.description, cursor.rowcount, cursor.lastrowid, rows

        self.description, self.rowcount, self.lastrowid, self._rows = await self._connection.trip(work)
        return self


class OneTripConnection(aiosqlite.Connection):
    """aiosqlite's connection with cursors of one trip, and no trip for a transaction in which nothing happened."""

    defers = False
    """Whether statements wait for the next trip; see `deferred`."""
    _waiting: tuple[Statement, ...] = ()

    def cursor(self) -> Any:
        """Return a cursor; SQLAlchemy enters it."""
        return OneTripCursor(self)

    def later(self, statement: Statement) -> None:
        """Execute a statement with the next trip, before what that is for; an error of it comes out there."""
        self._waiting = (*self._waiting, statement)

    async def trip(self, work: Callable[[sqlite3.Cursor], Any]) -> Any:
        """Execute what waits, then do some work, in the connection's thread; returns what that returns."""
        waiting, self._waiting = self._waiting, ()

        def together() -> Any:
            cursor = self._conn.cursor()
            try:
                for statement in waiting:
                    statement(cursor)
                return work(cursor)
            finally:
                cursor.close()

        return await self._execute(together)

    async def commit(self) -> None:
        """Commit, if there is something to; when that fails nothing is open any more."""
        if len(self._waiting) == 1 and not self._conn.in_transaction:
            self._waiting = ()  # nothing but its beginning
            return
        try:
            await self.trip(lambda _cursor: self._conn.commit())
        except Exception:  # a value that SQLite cannot hold is no sqlite3.Error
            # SQLAlchemy does not roll back what it could not commit, and the pool gives the connection to the next one.
            await self.rollback()
            raise

    async def rollback(self) -> None:
        """Roll back, if there is something to."""
        self._waiting = ()
        if self._conn.in_transaction:
            await super().rollback()


@contextmanager
def deferred(connection: object) -> Generator[None]:
    """Let the statements of the block go with the trip that follows it, and their errors come out there.

    For writes whose outcome nobody looks at. Connections of other kinds execute them at once.
    """
    if not isinstance(connection, OneTripConnection):
        yield
        return
    connection.defers = True
    try:
        yield
    finally:
        connection.defers = False


async def connect(database: str, options: Mapping[str, Any]) -> aiosqlite.Connection:
    """Open a database; `options` are those of `sqlite3.connect`."""
    connection = OneTripConnection(lambda: sqlite3.connect(database, **options), _PREFETCHED_ROWS)
    connection._thread.daemon = True  # pyright: ignore[reportPrivateUsage] - as SQLAlchemy does for its own
    return await connection
