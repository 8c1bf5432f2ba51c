"""The one engine of a process: made from a URL, with the pragmas, limits and error translation stores rely on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, event
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.domain.errors import ConfigurationError, StorageUnavailable
from app.infrastructure.persistence import sqlite_connection

_UNAVAILABLE = "The database did not answer in time. Nothing was written; try again."

_IDLE_IN_TRANSACTION_MS = 60_000
"""The longest that a transaction on PostgreSQL may go without a statement; those of transactional tools, too."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How long and how much the engine may wait; seconds."""

    pool_size: int = 10
    pool_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    statement_timeout_s: float = 15.0
    sqlite_busy_timeout_s: float = 20.0
    sqlite_synchronous: str = "NORMAL"


def normalize_url(url: str) -> URL:
    """Return the URL with the async driver we ship; `sqlite://` and `postgres(ql)://` are taken as people write them.

    Raises:
        ConfigurationError: it is no URL, or names another database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("DATABASE_URL is not a URL such as sqlite:///data.db or postgresql://…") from error
    match parsed.drivername.split("+")[0]:
        case "sqlite":
            return parsed.set(drivername="sqlite+aiosqlite")
        case "postgres" | "postgresql":
            return parsed.set(drivername="postgresql+asyncpg")
        case other:
            raise ConfigurationError(f"DATABASE_URL names '{other}'; only sqlite and postgresql are supported.")


def build_engine(url: str, limits: EngineLimits | None = None) -> AsyncEngine:
    """Return an engine for the URL; it connects on first use."""
    limits = limits or EngineLimits()
    parsed = normalize_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, limits)
    return create_async_engine(
        parsed,
        pool_size=limits.pool_size,
        max_overflow=limits.pool_size,
        pool_timeout=limits.pool_timeout_s,
        hide_parameters=True,  # a driver error's text would carry message content into logs
        pool_pre_ping=False,  # a ping is a round trip a checkout; a dead connection is retried by the caller instead
        connect_args={
            "timeout": limits.connect_timeout_s,
            "command_timeout": limits.statement_timeout_s,
            "server_settings": {
                "application_name": "durable-agents",
                "jit": "off",
                # A process that is frozen within a transaction would keep its locks from whoever takes its runs over.
                "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_MS),
            },
        },
    )


def _sqlite_engine(url: URL, limits: EngineLimits) -> AsyncEngine:
    in_memory = not url.database or url.database == ":memory:" or "mode=memory" in str(url)
    pool: dict[str, Any] = (
        {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0}  # each connection is its own database
        if in_memory
        else {"pool_size": limits.pool_size, "max_overflow": 0, "pool_timeout": limits.sqlite_busy_timeout_s + 10}
    )
    (database,), options = SQLiteDialect_aiosqlite().create_connect_args(url)
    options["timeout"] = limits.sqlite_busy_timeout_s
    engine = create_async_engine(
        url,
        async_creator=lambda: sqlite_connection.connect(database, options),
        hide_parameters=True,
        # A connection ends its own transaction when it is closed; the pool need not roll back once more.
        pool_reset_on_return=None,
        **pool,
    )

    def on_connect(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: a write has to say BEGIN IMMEDIATE, or two readers that
        # both want to write dead-lock and one gets "database is locked" whatever the timeout.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {limits.sqlite_synchronous}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA busy_timeout = {round(limits.sqlite_busy_timeout_s * 1000)}")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine.sync_engine, "connect", on_connect)
    event.listen(engine.sync_engine, "begin", on_begin)
    _writer_queues[engine] = _WriterQueue(limits.sqlite_busy_timeout_s)
    return engine


class _WriterQueue:
    """The line that the writers of one SQLite engine wait in: SQLite has one writer, and a line beats its busy loop."""

    def __init__(self, most_s: float) -> None:
        """`most_s`: seconds that one of them waits at most for its turn."""
        self._lock = asyncio.Lock()
        self._most_s = most_s

    async def __aenter__(self) -> None:
        """Wait for the turn.

        Raises:
            TimeoutError: it did not come in time.
        """
        async with asyncio.timeout(self._most_s):
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        """Let the next one write."""
        self._lock.release()


_writer_queues: WeakKeyDictionary[AsyncEngine, _WriterQueue] = WeakKeyDictionary()


def _writer_queue(engine: AsyncEngine) -> _WriterQueue:
    """Return the engine's line; engines that were not built here get one with the default limit."""
    queue = _writer_queues.get(engine)
    if queue is None:
        queue = _writer_queues[engine] = _WriterQueue(EngineLimits().sqlite_busy_timeout_s)
    return queue


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Give a connection for reading; foreign errors come out as ours.

    Raises:
        StorageUnavailable: no connection or no answer in time.
    """
    with translated_errors():
        async with engine.connect() as connection:
            yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Give a connection in one write transaction: it commits at the end of the block and rolls back on any exception.

    Raises:
        StorageUnavailable: no connection or no answer in time; nothing was written.
    """
    with translated_errors():
        if engine.dialect.name != "sqlite":
            async with engine.begin() as connection:
                yield connection
            return
        async with _writer_queue(engine), engine.connect() as connection:
            await connection.execution_options(write=True)
            async with connection.begin():
                yield connection


class translated_errors:  # noqa: N801 - reads as a word in a with statement
    """Turn the driver's failures into StorageUnavailable, with the cause kept; let programming errors through."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Translate.

        Raises:
            StorageUnavailable: the database is away, locked, or too slow.
        """
        if error is not None and is_unavailable(error):
            raise StorageUnavailable(_UNAVAILABLE) from error


# SQLSTATE classes and codes that mean "not now" rather than "not so": connection lost, out of resources, shutdown,
# statement timeout, serialization failure, dead-lock, read-only standby after a failover.
_TRANSIENT_SQLSTATES = ("08", "53", "57", "40", "25006")

_LOST_IN_TRANSACTION = "8s2b"
"""SQLAlchemy's code for a statement behind the one that found the connection lost, and whose error was swallowed."""


def is_unavailable(error: BaseException) -> bool:
    """Tell whether a foreign exception means that the database could not be reached or did not answer in time."""
    if isinstance(error, PoolTimeout | ConnectionError | TimeoutError | OSError):
        return True
    if not isinstance(error, DBAPIError):
        return isinstance(error, PendingRollbackError) and error.code == _LOST_IN_TRANSACTION
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    sqlstate = getattr(error.orig, "sqlstate", None)  # asyncpg's errors carry it, sqlite3's do not
    if isinstance(sqlstate, str):
        return sqlstate.startswith(_TRANSIENT_SQLSTATES)
    if isinstance(error, OperationalError):
        return True
    return isinstance(error.orig, TimeoutError | ConnectionError | OSError)
