"""Conversations in our tables."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Column, Row, Select, and_, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import ConversationNotFound
from app.domain.identifiers import new_conversation_id, session_key
from app.domain.models.conversations import Caller, Conversation, Item, Message, MessageHit
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.owned_rows import can_exist, delete_thread, of_caller, owned
from app.infrastructure.persistence.tables import conversations, messages, sdk_messages

MAX_SEARCH_HITS = 100
MAX_QUERY_CHARS = 1000
"""Characters of a query that are looked at; SQLite refuses patterns that are much longer."""

_CONVERSATION_COLUMNS: Final[tuple[Column[Any], ...]] = (
    conversations.c.id,
    conversations.c.organization_id,
    conversations.c.user_id,
    conversations.c.agent,
    conversations.c.last_agent,
    conversations.c.title,
    conversations.c.metadata,
    conversations.c.provider,
    conversations.c.provider_conversation_id,
    conversations.c.sdk_session_id,
    conversations.c.run_count,
    conversations.c.message_count,
    conversations.c.created_at,
    conversations.c.updated_at,
)


class SqlConversationStore:
    """ConversationStore over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine

    async def create(
        self, caller: Caller, *, agent: str | None, provider: str, provider_conversation_id: str | None
    ) -> Conversation:
        """Open an empty conversation; its history is keyed by the provider's id where there is one, else by ours."""
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
        }
        async with writing(self._engine) as connection:
            return _conversation((await connection.execute(_INSERT, values)).one())

    async def get(self, caller: Caller, conversation_id: str) -> Conversation:
        """Return a conversation; see the port."""
        self._check_form(conversation_id)
        statement = select(*_CONVERSATION_COLUMNS).where(*owned(caller, conversation_id, "chat"))
        async with reading(self._engine) as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise ConversationNotFound(conversation_id)
        return _conversation(row)

    async def list(self, caller: Caller, *, limit: int, after: str | None) -> tuple[Sequence[Conversation], bool]:
        """Return a page of conversations; see the port. An `after` that was never an id is a bound all the same."""
        if after is not None and not can_exist(after):
            return (), False
        statement = select(*_CONVERSATION_COLUMNS).where(*of_caller(caller, "chat"))
        if after is not None:
            statement = statement.where(conversations.c.id < after)
        statement = statement.order_by(conversations.c.id.desc()).limit(limit + 1)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        return [_conversation(row) for row in rows[:limit]], len(rows) > limit

    async def messages(
        self, caller: Caller, conversation_id: str, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Message]:
        """Return messages; see the port."""
        belongs = and_(messages.c.conversation_id == conversations.c.id, messages.c.position > after)
        statement = select(messages).select_from(conversations.outerjoin(messages, belongs))
        statement = statement.order_by(messages.c.position).limit(limit)
        return [_message(row) for row in await self._joined(caller, conversation_id, statement) if row.position]

    async def items(
        self, caller: Caller, conversation_id: str, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Item]:
        """Return the history; see the port. Rows that are no JSON object count, but are left out."""
        belongs = sdk_messages.c.session_id == conversations.c.sdk_session_id
        statement = select(sdk_messages.c.message_data).select_from(conversations.outerjoin(sdk_messages, belongs))
        statement = statement.order_by(sdk_messages.c.created_at, sdk_messages.c.id).limit(limit).offset(after or None)
        rows = await self._joined(caller, conversation_id, statement)
        return [item for row in rows if (item := decoded_item(row.message_data)) is not None]

    async def _joined(self, caller: Caller, conversation_id: str, statement: Select[Any]) -> Sequence[Row[Any]]:
        """Return rows outer-joined to a conversation, in one round trip; only no row at all may mean it is gone."""
        self._check_form(conversation_id)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement.where(*owned(caller, conversation_id, "chat")))).all()
        if not rows:
            await self.get(caller, conversation_id)
        return rows

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        """Delete every row of a conversation; see the port."""
        self._check_form(conversation_id)
        async with writing(self._engine) as connection:
            if not await delete_thread(connection, caller, conversation_id, "chat"):
                raise ConversationNotFound(conversation_id)

    async def search(self, caller: Caller, query: str, limit: int) -> Sequence[MessageHit]:
        """Return messages with all words, newest first; see the port.

        At most 100, whatever the limit. Case is ignored for every alphabet on PostgreSQL, for ASCII on SQLite.
        """
        words = dict.fromkeys(query[:MAX_QUERY_CHARS].split())
        if not words or limit < 1 or not can_exist(query):
            return ()
        statement = (
            select(messages, conversations.c.title)
            .join(conversations, conversations.c.id == messages.c.conversation_id)
            .where(*of_caller(caller, "chat"), *(messages.c.text.icontains(word, autoescape=True) for word in words))
            .order_by(messages.c.created_at.desc(), messages.c.conversation_id.desc(), messages.c.position.desc())
            .limit(min(limit, MAX_SEARCH_HITS))
        )
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        return [MessageHit(row.conversation_id, row.title, _message(row)) for row in rows]

    @staticmethod
    def _check_form(conversation_id: str) -> None:
        if not can_exist(conversation_id):
            raise ConversationNotFound(conversation_id)


_INSERT = insert(conversations).returning(*_CONVERSATION_COLUMNS)


def decoded_item(message_data: str | None) -> Item | None:
    """Return the item of a row of the SDK's messages; None when it holds no JSON object."""
    if message_data is None:
        return None
    try:
        item = json_text.decode(message_data)
    except ValueError:
        return None  # the SDK skips such rows as well
    return item if isinstance(item, dict) else None


def _conversation(row: Row[*tuple[Any, ...]]) -> Conversation:
    return Conversation(*row)  # the columns are in the order of the fields


def _message(row: Row[*tuple[Any, ...]]) -> Message:
    return Message(row.position, row.role, row.text, row.run_id, row.agent, row.created_at)
