"""Conversations found by the names of other protocols' clients, in our tables."""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.identifiers import new_conversation_id, session_key
from app.domain.models.conversations import Caller
from app.domain.models.threads import Thread
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.owned_rows import can_exist, of_caller
from app.infrastructure.persistence.tables import conversations

_COLUMNS: Final = (conversations.c.id, conversations.c.agent)


class SqlThreadStore:
    """ThreadStore over the shared engine, for SQLite and PostgreSQL: the name is a column of the conversation."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def find(self, caller: Caller, key: str) -> Thread | None:
        """Return the conversation of a key; see the port."""
        conditions = [conversations.c.thread_key == key, *of_caller(caller, "chat")]
        async with reading(self._engine) as connection:
            row = (await connection.execute(select(*_COLUMNS).where(*conditions))).one_or_none()
        return None if row is None else Thread(row.id, row.agent)

    async def named(self, caller: Caller, conversation_id: str) -> Thread | None:
        """Return a conversation by its own id; see the port."""
        if not can_exist(conversation_id):
            return None
        conditions = [conversations.c.id == conversation_id, *of_caller(caller, "chat")]
        async with reading(self._engine) as connection:
            row = (await connection.execute(select(*_COLUMNS).where(*conditions))).one_or_none()
        return None if row is None else Thread(row.id, row.agent)

    async def open(
        self, caller: Caller, key: str, *, agent: str, provider: str, provider_conversation_id: str | None
    ) -> Thread:
        """Open an empty conversation under a key; see the port."""
        conversation_id = new_conversation_id()
        now = datetime.now(UTC)
        values = {
            "id": conversation_id,
            "organization_id": caller.organization_id,
            "user_id": caller.user_id,
            "agent": agent,
            "metadata": {},
            "kind": "chat",
            "provider": provider,
            "provider_conversation_id": provider_conversation_id,
            "sdk_session_id": session_key(caller.organization_id, provider_conversation_id or conversation_id),
            "run_count": 0,
            "message_count": 0,
            "created_at": now,
            "updated_at": now,
            "thread_key": key,
        }
        try:
            async with writing(self._engine) as connection:
                await connection.execute(insert(conversations), values)
        except IntegrityError:
            # Two first messages at the same time: the index let one of them through.
            known = await self.find(caller, key)
            if known is None:
                raise
            return known
        return Thread(conversation_id, agent)
