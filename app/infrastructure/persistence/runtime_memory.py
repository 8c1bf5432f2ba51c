"""The runtime memory of seed 000: content in the SDK's tables, metadata in a compartment of its own."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.errors import SessionNotFound
from app.domain.identifiers import new_conversation_id, session_key
from app.domain.models.conversations import Caller, Item, RuntimeMemory
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.clock_sql import session_clock
from app.infrastructure.persistence.conversations import decoded_item
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.owned_rows import can_exist, delete_thread, owned
from app.infrastructure.persistence.tables import conversations, sdk_messages, sdk_sessions


class SqlRuntimeMemoryStore:
    """RuntimeMemoryStore over the shared engine, for SQLite and PostgreSQL.

    A memory is a row of `agent_conversations` with kind `memory`; its lock puts concurrent writers in line.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def create(self, caller: Caller) -> str:
        """Open an empty memory; see the port."""
        memory_id = new_conversation_id()
        sdk_session_id = session_key(caller.organization_id, memory_id)
        now = datetime.now(UTC)
        values = {
            "id": memory_id,
            "organization_id": caller.organization_id,
            "user_id": caller.user_id,
            "metadata": {},
            "kind": "memory",
            "provider": "memory",
            "sdk_session_id": sdk_session_id,
            "created_at": now,
            "updated_at": now,
        }
        async with writing(self._engine) as connection:
            await connection.execute(insert(conversations), values)
            await connection.execute(insert(sdk_sessions), {"session_id": sdk_session_id})
        return memory_id

    async def add_messages(self, caller: Caller, session_id: str, messages: Sequence[Item]) -> None:
        """Append messages; see the port."""
        rows = [{"data": json_text.encode(message)} for message in messages]
        async with writing(self._engine) as connection:
            memory = await self._locked(connection, caller, session_id)
            if not rows:
                return
            await self._touch_session(connection, memory.sdk_session_id)
            append = _APPEND[connection.dialect.name]
            await connection.execute(append, [row | {"to_session": memory.sdk_session_id} for row in rows])
            await self._update(connection, session_id, {})

    async def set_metadata(self, caller: Caller, session_id: str, metadata: Mapping[str, Any]) -> None:
        """Merge metadata under the memory's lock, so that two writers of different keys lose nothing; see the port."""
        async with writing(self._engine) as connection:
            memory = await self._locked(connection, caller, session_id)
            await self._update(connection, session_id, {"metadata": {**memory.metadata, **metadata}})

    async def get(self, caller: Caller, session_id: str) -> RuntimeMemory:
        """Return both compartments; see the port."""
        async with reading(self._engine) as connection:
            memory = await self._found(connection, caller, session_id)
            statement = (
                select(sdk_messages.c.message_data)
                .where(sdk_messages.c.session_id == memory.sdk_session_id)
                .order_by(sdk_messages.c.created_at, sdk_messages.c.id)
            )
            stored = (await connection.execute(statement)).scalars().all()
        items = tuple(item for data in stored if (item := decoded_item(data)) is not None)
        return RuntimeMemory(items, memory.metadata)

    async def metadata(self, caller: Caller, session_id: str) -> Mapping[str, Any]:
        """Return a copy of the metadata; see the port."""
        async with reading(self._engine) as connection:
            return (await self._found(connection, caller, session_id)).metadata

    async def delete(self, caller: Caller, session_id: str) -> None:
        """Delete all rows of the memory; see the port."""
        if not can_exist(session_id):
            raise SessionNotFound(session_id)
        async with writing(self._engine) as connection:
            if not await delete_thread(connection, caller, session_id, "memory"):
                raise SessionNotFound(session_id)

    async def _found(
        self, connection: AsyncConnection, caller: Caller, session_id: str, *, lock: bool = False
    ) -> Row[Any, Any]:
        if not can_exist(session_id):
            raise SessionNotFound(session_id)
        statement = select(conversations.c.sdk_session_id, conversations.c.metadata).where(
            *owned(caller, session_id, "memory")
        )
        row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
        if row is None:
            raise SessionNotFound(session_id)
        return row

    async def _locked(self, connection: AsyncConnection, caller: Caller, session_id: str) -> Row[Any, Any]:
        return await self._found(connection, caller, session_id, lock=True)

    async def _update(self, connection: AsyncConnection, session_id: str, values: dict[str, Any]) -> None:
        """Write to the memory's row, which is locked and known to be the caller's."""
        values = {**values, "updated_at": datetime.now(UTC)}
        await connection.execute(update(conversations).where(conversations.c.id == session_id).values(values))

    async def _touch_session(self, connection: AsyncConnection, sdk_session_id: str) -> None:
        """Lock the SDK's row as its own writers do; make it again when someone cleared the session."""
        touched = await connection.execute(
            update(sdk_sessions).where(sdk_sessions.c.session_id == sdk_session_id).values(updated_at=session_clock())
        )
        if touched.rowcount == 0:
            await connection.execute(insert(sdk_sessions), {"session_id": sdk_session_id})


def _append(latest: Any) -> Any:
    """Append one row, never dated before the session's last one: the SDK sorts by `created_at`, then by `id`.

    The time stays in SQL: read into Python and written back, it would change its form on SQLite, where it is text.
    """
    newest = (
        select(func.max(sdk_messages.c.created_at))
        .where(sdk_messages.c.session_id == bindparam("to_session"))
        .scalar_subquery()
    )
    return insert(sdk_messages).values(
        session_id=bindparam("to_session"),
        message_data=bindparam("data"),
        created_at=latest(session_clock(), func.coalesce(newest, session_clock())),
    )


_APPEND = {"postgresql": _append(func.greatest), "sqlite": _append(func.max)}
