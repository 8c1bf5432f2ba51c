"""The SDK's two session tables and the SQL over them, built once a process and shared by every session object."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    TIMESTAMP,
    Column,
    ColumnElement,
    Delete,
    ForeignKey,
    Index,
    Insert,
    MetaData,
    Select,
    String,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.infrastructure.persistence.tables import RowId

SESSIONS_TABLE = "sdk_agent_sessions"
MESSAGES_TABLE = "sdk_agent_session_messages"
SUPPORTED_DIALECTS = frozenset({"sqlite", "postgresql"})


@dataclass(frozen=True, slots=True)
class SessionTables:
    """One pair of tables in the SDK's shape, with a metadata of their own for `create_tables`."""

    metadata: MetaData
    sessions: Table
    messages: Table


@dataclass(frozen=True, slots=True)
class SessionStatements:
    """The SQL of one pair of tables on one database.

    The objects are reused, so SQLAlchemy compiles each of them once. Parameters: `session` is the session's id,
    `data` an item as text, `row` a row id, `most` a number of rows.
    """

    hold_session: Insert
    """Create the session or touch it; either way its row stays locked until the transaction ends."""
    append: Insert
    """Add one item, never earlier than the session's latest. Only under `hold_session`."""
    read_all: Select[int, str]
    """(row id, data), oldest first."""
    read_latest: Select[int, str]
    """(row id, data) of the latest `most` rows, newest first."""
    delete_messages: Delete
    delete_session: Delete


@lru_cache(maxsize=32)
def session_tables(sessions_table: str, messages_table: str) -> SessionTables:
    """Return the tables of these names, the same objects each time.

    They are what `SQLAlchemySession` would build, except that row ids have 64 bits on PostgreSQL.
    """
    metadata = MetaData()
    now = text("CURRENT_TIMESTAMP")
    sessions = Table(
        sessions_table,
        metadata,
        Column("session_id", String, primary_key=True),
        Column("created_at", TIMESTAMP(timezone=False), server_default=now, nullable=False),
        Column("updated_at", TIMESTAMP(timezone=False), server_default=now, onupdate=now, nullable=False),
    )
    messages = Table(
        messages_table,
        metadata,
        Column("id", RowId, primary_key=True, autoincrement=True),
        Column("session_id", String, ForeignKey(f"{sessions_table}.session_id", ondelete="CASCADE"), nullable=False),
        Column("message_data", Text, nullable=False),
        Column("created_at", TIMESTAMP(timezone=False), server_default=now, nullable=False),
        Index(f"idx_{messages_table}_session_time", "session_id", "created_at"),
        sqlite_autoincrement=True,
    )
    return SessionTables(metadata, sessions, messages)


@lru_cache(maxsize=64)
def session_statements(sessions_table: str, messages_table: str, dialect: str) -> SessionStatements:
    """Return the SQL for these tables on `sqlite` or `postgresql`, the same objects each time."""
    tables = session_tables(sessions_table, messages_table)
    messages = tables.messages.c
    of_session = messages.session_id == bindparam("session")
    rows = select(messages.id, messages.message_data).where(of_session)
    return SessionStatements(
        hold_session=_hold_session(tables.sessions, dialect),
        append=insert(tables.messages).values(
            session_id=bindparam("session"),
            message_data=bindparam("data"),
            created_at=_not_before_the_latest(tables.messages, dialect),
        ),
        read_all=rows.order_by(messages.created_at.asc(), messages.id.asc()),
        read_latest=rows.order_by(messages.created_at.desc(), messages.id.desc()).limit(bindparam("most")),
        delete_messages=delete(tables.messages).where(of_session),
        delete_session=delete(tables.sessions).where(tables.sessions.c.session_id == bindparam("session")),
    )


def _hold_session(sessions: Table, dialect: str) -> Insert:
    values = {"session_id": bindparam("session")}
    touched = {"updated_at": text("CURRENT_TIMESTAMP")}
    if dialect == "sqlite":
        return sqlite.insert(sessions).values(values).on_conflict_do_update(["session_id"], set_=touched)
    return postgresql.insert(sessions).values(values).on_conflict_do_update(index_elements=["session_id"], set_=touched)


def _not_before_the_latest(messages: Table, dialect: str) -> ColumnElement[Any]:
    """Return max(latest stored time of the session, the database's clock now), in the column default's own format.

    Readers sort by (created_at, id). The default is when the *transaction began*, and clocks step back; either puts
    a later write before an earlier one. A later write under the session's lock has the larger id, and with this the
    larger or same time, so both orders agree.
    """
    latest = select(func.max(messages.c.created_at)).where(messages.c.session_id == bindparam("session"))
    if dialect == "sqlite":
        # CURRENT_TIMESTAMP is text to the second there; the empty text sorts before it and stands for "no row yet".
        return func.max(
            literal_column("CURRENT_TIMESTAMP"), func.coalesce(latest.scalar_subquery(), literal_column("''"))
        )
    # greatest() passes over NULL. clock_timestamp() is the time of the statement, not of its transaction.
    return func.greatest(cast(func.clock_timestamp(), TIMESTAMP(timezone=False)), latest.scalar_subquery())
