"""How Alembic reaches the database: one process at a time, with short timeouts, all or nothing a revision.

The database is, in this order: the idle connection in `config.attributes["connection"]`, `-x url=...`, DATABASE_URL.
Processes that migrate at the same time take turns; the later one finds nothing left to do.
"""

import asyncio
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection, func, select, text

from app.domain.errors import ConfigurationError, StorageUnavailable
from app.infrastructure.persistence import access_tables, completion_tables, share_tables  # noqa: F401 - in `metadata`, too
from app.infrastructure.persistence.engine import build_engine, normalize_url
from app.infrastructure.persistence.search_tables import SEARCH_TABLE
from app.infrastructure.persistence.tables import JsonText, Money, UtcDateTime, metadata

# A migration that waits for a table lock makes every later query on that table wait behind it, so it gives up soon and
# is tried again. The statement limit lies below the driver's own (15 s), for the server's message is the better one.
# A migration that needs longer says `SET LOCAL statement_timeout` itself, with the reason.
LOCK_TIMEOUT = "4s"
STATEMENT_TIMEOUT = "12s"
TURN_TIMEOUT_S = 60.0
TURN_POLL_S = 0.1

ADVISORY_LOCK = 0x6475_7261_626C_6521
"""The key of PostgreSQL's advisory lock, one a database: the bytes of "durable!"."""

STORED_AS = {
    UtcDateTime: "sa.DateTime(timezone=True)",
    JsonText: "sa.Text()",
    Money: 'sa.Numeric(20, 10).with_variant(sa.String(32), "sqlite")',
}
"""What a generated revision says for our own types: revisions outlive the classes, so they do not import them."""


def render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    return STORED_AS.get(type(item), False) if kind == "type" else False


def include_name(name: str | None, _kind: Any, _parents: Any) -> bool:
    """Leave out what finds messages by their words: no model describes it."""
    return name is None or not name.startswith(SEARCH_TABLE)


def database_url() -> str:
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("DATABASE_URL")
    if not url:
        raise ConfigurationError("DATABASE_URL is not set; set it, or give Alembic `-x url=...`.")
    return url


@contextmanager
def sqlite_turn(connection: Connection) -> Generator[None]:
    """Hold SQLite's one write lock over all missing revisions: they are applied together or not at all.

    Foreign keys are off meanwhile, which SQLite does only outside a transaction: a batch drops the old table, and that
    would delete every row that refers to it.
    """
    set_foreign_keys(connection, "OFF")
    try:
        connection.execution_options(write=True)  # BEGIN IMMEDIATE, which waits for the other process
        with connection.begin():
            yield
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise RuntimeError(f"The migration left rows of {broken[0]} that refer to missing rows of {broken[2]}.")
    finally:
        set_foreign_keys(connection, "ON")


def set_foreign_keys(connection: Connection, state: str) -> None:
    # Not through SQLAlchemy, which begins a transaction before the first statement.
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA foreign_keys = {state}")
    cursor.close()


@contextmanager
def postgresql_turn(connection: Connection) -> Generator[None]:
    """Hold an advisory lock that belongs to the session, so that each revision can be a transaction of its own.

    It is asked for again and again: a session that waits inside a transaction would block the CREATE INDEX CONCURRENTLY
    of the one it waits for. A connection pooler in transaction mode does not keep it; migrate past the pooler.
    """
    deadline = time.monotonic() + TURN_TIMEOUT_S
    try:
        while not connection.scalar(select(func.pg_try_advisory_lock(ADVISORY_LOCK))):
            connection.commit()
            if time.monotonic() > deadline:
                raise StorageUnavailable("Another process is still migrating this database. Try again later.")
            connection.execute(select(func.pg_sleep(TURN_POLL_S)))
            connection.commit()
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.commit()
        yield
        connection.execute(text("RESET lock_timeout"))
        connection.execute(text("RESET statement_timeout"))
        connection.execute(select(func.pg_advisory_unlock(ADVISORY_LOCK)))
        connection.commit()
    except BaseException:
        connection.invalidate()  # closing it gives the lock and the timeouts back, whatever state it is in
        raise


def migrate(connection: Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    with sqlite_turn(connection) if sqlite else postgresql_turn(connection):
        context.configure(
            connection=connection,
            target_metadata=metadata,
            transaction_per_migration=not sqlite,
            transactional_ddl=True,
            render_as_batch=True,
            render_item=render_item,
            include_name=include_name,
            compare_type=True,
            compare_server_default=True,
            on_version_apply=context.config.attributes.get("on_version_apply"),
        )
        with context.begin_transaction():
            context.run_migrations()


async def migrate_by_url() -> None:
    engine = build_engine(database_url())
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


def print_sql() -> None:
    """Write the statements instead of running them (`--sql`); PostgreSQL only, as SQLite's depend on what is there."""
    context.configure(
        url=normalize_url(database_url()),
        target_metadata=metadata,
        transaction_per_migration=True,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    print_sql()
elif (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    asyncio.run(migrate_by_url())
