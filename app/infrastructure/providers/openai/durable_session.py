"""The SDK's SQLAlchemySession without its faults: cheap to make, stable in order, whole in contract."""

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

from agents import RunContextWrapper, SessionSettings, TResponseInputItem
from agents.extensions.memory import SQLAlchemySession
from agents.memory.session import _await_mutation  # pyright: ignore[reportPrivateUsage] - the SDK's own settling rule
from agents.memory.session_settings import coerce_session_settings, resolve_session_limit
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.domain.errors import ConfigurationError
from app.infrastructure.persistence import json_text
from app.infrastructure.providers.openai.corrupt_rows import corrupt_rows
from app.infrastructure.providers.openai.session_tables import (
    MESSAGES_TABLE,
    SESSIONS_TABLE,
    SUPPORTED_DIALECTS,
    session_statements,
    session_tables,
)

Wrapper = RunContextWrapper[Any] | None
Executor = AsyncSession | AsyncConnection
"""What SQL runs on, inside a transaction."""

_NOT_AN_ITEM = (ValueError, TypeError, RecursionError)
"""What decoding a corrupt row raises; nesting deeper than the interpreter's stack counts as corrupt."""

# A subclass that overrides one of these keeps something else than plain items, which the SDK's compaction cannot know.
_STORED_FORM = ("get_items", "add_items", "pop_item", "clear_session", "_serialize_item", "_deserialize_item")


class DurableSession(SQLAlchemySession):
    """A history in the SDK's tables, readable and writable side by side with the SDK's own `SQLAlchemySession`.

    Order: every write holds the session's row lock and gets a time not before the session's latest, so the order of
    reading, (created_at, id), is the order of writing; a clock that steps back or a transaction that began early
    changes nothing. (A clock that ran ahead and was set back makes items of *SDK* writers sort before ours until it
    has caught up.)

    Limits count items that can be read. A limit of 0 or less gives none.

    Errors are the driver's own, as with the SDK's session; the ones of `OpenAISQLAlchemySessionStore` raise
    `StorageUnavailable` instead. Cancelling a write waits until its transaction has ended, then raises
    `CancelledError`: the write is whole or absent, and nothing goes on behind the caller's back.

    `wrapper` (the run's context, which the SDK passes to sessions that declare it) is for subclasses; it is not used.
    """

    def __init__(
        self,
        session_id: str,
        *,
        engine: AsyncEngine,
        create_tables: bool = False,
        sessions_table: str = SESSIONS_TABLE,
        messages_table: str = MESSAGES_TABLE,
        session_settings: SessionSettings | dict[str, Any] | None = None,
        ensure_ascii: bool = True,
    ) -> None:
        """Bind the id to an engine; nothing is read or written yet.

        The SDK's constructor is not called: it builds two Table objects a session (0.5 ms), and with them SQL that
        has to be compiled anew.

        Args:
            session_id: the key in the tables.
            engine: one with an async driver for SQLite or PostgreSQL.
            create_tables: create missing tables on first use; for scripts, as the server's tables are migrated.
            sessions_table: the name of the table with one row a session.
            messages_table: the name of the table with one row an item.
            session_settings: `limit`, the number of items `get_items()` returns by default.
            ensure_ascii: keep items as ASCII text. Without it a lone surrogate cannot be stored.

        Raises:
            ConfigurationError: the engine speaks to another database.
        """
        if engine.dialect.name not in SUPPORTED_DIALECTS:
            raise ConfigurationError(f"Sessions are kept in SQLite or PostgreSQL, not in '{engine.dialect.name}'.")
        tables = session_tables(sessions_table, messages_table)
        self.session_id = session_id
        self.session_settings = coerce_session_settings(session_settings or SessionSettings())
        self._engine = engine
        self._ensure_ascii = ensure_ascii
        self._configure_sqlite_engine(engine)
        self._connection_lock = self._sqlite_connection_locks.get(id(engine.sync_engine))
        self._create_tables = create_tables
        self._init_lock = self._get_table_init_lock(engine, sessions_table, messages_table) if create_tables else None
        self._metadata = tables.metadata
        self._sessions = tables.sessions
        self._messages = tables.messages
        self._session_factory = async_sessionmaker(engine, expire_on_commit=False)
        self._sql = session_statements(sessions_table, messages_table, engine.dialect.name)

    @classmethod
    def from_url(
        cls,
        session_id: str,
        *,
        url: str,
        engine_kwargs: dict[str, Any] | None = None,
        session_settings: SessionSettings | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "DurableSession":
        """Make a session with an engine of its own; `session.engine.dispose()` closes it.

        Error messages of that engine leave out statement parameters, which hold the items, unless `engine_kwargs`
        says otherwise.
        """
        engine = create_async_engine(url, **{"hide_parameters": True, **(engine_kwargs or {})})
        return cls(session_id, engine=engine, session_settings=session_settings, **kwargs)

    @classmethod
    def _configure_sqlite_engine(cls, engine: AsyncEngine) -> None:
        """Give the SDK's pragmas to plain engines only.

        Whoever handles `begin` sets the pragmas too, as `build_engine` does; the SDK would cut the busy timeout to 5 s.
        """
        if not engine.sync_engine.dispatch.begin:
            super()._configure_sqlite_engine(engine)

    async def get_items(self, limit: int | None = None, *, wrapper: Wrapper = None) -> list[TResponseInputItem]:
        """Return the latest `limit` items, oldest first; None: as many as the settings say, or all of them.

        Corrupt rows are left out and do not count.
        """
        await self._ensure_tables()
        wanted = resolve_session_limit(limit, self.session_settings)
        if wanted is None:
            async with self._reading() as database:
                rows = (await database.execute(self._sql.read_all, {"session": self.session_id})).all()
            return await self._decoded(rows)
        if wanted <= 0:
            return []
        window = wanted
        while True:  # twice at most, unless the newest rows are corrupt
            async with self._reading() as database:
                found = await database.execute(self._sql.read_latest, {"session": self.session_id, "most": window})
                rows = found.all()
            items = await self._decoded(reversed(rows))
            if len(items) >= wanted or len(rows) < window:
                return items[-wanted:]
            window *= 2

    async def add_items(self, items: list[TResponseInputItem], *, wrapper: Wrapper = None) -> None:
        """Add items at the end, all of them or none; an empty list writes nothing, not even the session's row."""
        if not items:
            return
        await self._ensure_tables()
        rows = [{"session": self.session_id, "data": await self._serialize_item(item)} for item in items]

        async def write() -> None:
            async with self._writing() as database:
                await database.execute(self._sql.hold_session, {"session": self.session_id})
                await database.execute(self._sql.append, rows)

        await _await_mutation(self._run_sqlite_write_with_retry(write))

    async def pop_item(self, *, wrapper: Wrapper = None) -> TResponseInputItem | None:
        """Remove and return the latest item; None when there is none. Corrupt rows after it are removed too."""
        await self._ensure_tables()
        return await _await_mutation(self._run_sqlite_write_with_retry(self._pop_item))

    async def clear_session(self, *, wrapper: Wrapper = None) -> None:
        """Delete the items and the session's row; a session that does not exist is no error."""
        await self._ensure_tables()
        await _await_mutation(self._run_sqlite_write_with_retry(self._clear_session))

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[Executor]:
        async with self._session() as session:
            yield session

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[Executor]:
        """Give a transaction. Its first statement must be a write: in SQLite only that waits for another writer."""
        async with self._session() as session, session.begin():
            yield session

    async def _serialize_item(self, item: TResponseInputItem) -> str:
        return json_text.encode(item) if self._ensure_ascii else await super()._serialize_item(item)

    async def _deserialize_item(self, item: str) -> TResponseInputItem:
        value = json_text.decode(item)
        if not isinstance(value, dict):
            raise json.JSONDecodeError("not an object", "", 0)
        return cast("TResponseInputItem", value)

    async def _decoded(self, rows: Iterable[Any]) -> list[TResponseInputItem]:
        items: list[TResponseInputItem] = []
        for row_id, data in rows:
            try:
                items.append(await self._deserialize_item(data))
            except _NOT_AN_ITEM:
                corrupt_rows.report(self._engine, self._messages.name, row_id)
        return items

    async def _pop_item(self) -> TResponseInputItem | None:
        """Take rows from the end, each in a transaction of its own, until one holds an item."""
        while (taken := await self._take_latest_row()) is not None:
            row_id, data = taken
            if data is None:
                continue  # someone who does not take the session's lock was faster; look again
            try:
                return await self._deserialize_item(data)
            except _NOT_AN_ITEM:
                corrupt_rows.report(self._engine, self._messages.name, row_id)
        return None

    async def _take_latest_row(self) -> tuple[int, str | None] | None:
        """Delete the latest row; returns its id and data (None: it was gone already), or None for an empty session."""
        messages = self._messages
        latest = (
            select(messages.c.id)
            .where(messages.c.session_id == self.session_id)
            .order_by(messages.c.created_at.desc(), messages.c.id.desc())
            .limit(1)
            .with_for_update()
        )
        async with self._writing() as database:
            if not await self._lock_session(cast("AsyncSession", database)):  # it only executes statements
                return None
            if not self._engine.dialect.delete_returning:  # SQLite before 3.35
                found = (await database.execute(latest.add_columns(messages.c.message_data))).one_or_none()
                if found is None:
                    return None
                await database.execute(delete(messages).where(messages.c.id == found[0]))
                return found[0], found[1]
            row_id = (await database.execute(latest)).scalar_one_or_none()
            if row_id is None:
                return None
            removal = delete(messages).where(messages.c.id == row_id).returning(messages.c.message_data)
            return row_id, (await database.execute(removal)).scalar_one_or_none()

    async def _clear_session(self) -> None:
        async with self._writing() as database:
            if await self._lock_session(cast("AsyncSession", database)):
                await database.execute(self._sql.delete_messages, {"session": self.session_id})
                await database.execute(self._sql.delete_session, {"session": self.session_id})

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: Callable[[TResponseInputItem], bool] | None = None
    ) -> Any:
        """Return the latest `limit` items with a compare-and-replace of their end, for the SDK's compaction session.

        None, as from the SDK, when a row among them is corrupt or a subclass keeps something else than plain items:
        compaction then asks for the whole history instead.

        The SDK does this for instances of exactly its own class. So it is given one with our state: a copy of
        its 100 lines would have to follow each release of it.
        """
        if any(getattr(type(self), name) is not getattr(DurableSession, name) for name in _STORED_FORM):
            return None
        await self._ensure_tables()
        plain = SQLAlchemySession.__new__(SQLAlchemySession)
        vars(plain).update(vars(self))
        snapshot = await plain._get_compaction_snapshot(limit, prune_prefix=prune_prefix)
        items = cast("list[object]", snapshot.items if snapshot else [])
        return snapshot if all(isinstance(item, dict) for item in items) else None
