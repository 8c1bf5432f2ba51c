"""Conversations in our tables."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Row, Select, and_, insert, or_, select, update

from app.domain.errors import ConversationNotFound
from app.domain.identifiers import new_conversation_id, session_key
from app.domain.models.conversations import (
    Caller,
    Conversation,
    ConversationFilter,
    Item,
    Message,
    NewConversation,
)
from app.infrastructure.persistence.conversation_forks import ConversationForks
from app.infrastructure.persistence.conversation_items import ConversationItems
from app.infrastructure.persistence.conversation_rows import (
    CONVERSATION_COLUMNS,
    check_form,
    conversation_of,
    decoded_item,
    found,
    message_of,
)
from app.infrastructure.persistence.conversation_search import ConversationSearch
from app.infrastructure.persistence.conversation_shares import ConversationShares
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.item_rows import insert_items
from app.infrastructure.persistence.owned_rows import can_exist, delete_thread, of_caller, owned
from app.infrastructure.persistence.tables import conversations, messages, sdk_messages

__all__ = ["SqlConversationStore", "decoded_item"]


class SqlConversationStore(ConversationSearch, ConversationItems, ConversationForks, ConversationShares):
    """ConversationStore over the shared engine, for SQLite and PostgreSQL."""

    async def create(
        self, caller: Caller, *, agent: str | None, provider: str, provider_conversation_id: str | None
    ) -> Conversation:
        """Open an empty conversation; its history is keyed by the provider's id where there is one, else by ours."""
        values = _values(caller, agent, provider) | {"provider_conversation_id": provider_conversation_id}
        if provider_conversation_id is not None:
            values["sdk_session_id"] = session_key(caller.organization_id, provider_conversation_id)
        async with writing(self._engine) as connection:
            return conversation_of((await connection.execute(_INSERT, values)).one())

    async def open(self, caller: Caller, new: NewConversation) -> Conversation:
        """Open a conversation with its first items; see the port."""
        values = _values(caller, new.agent, new.provider) | {"title": new.title, "metadata": dict(new.metadata)}
        async with writing(self._engine) as connection:
            opened = conversation_of((await connection.execute(_INSERT, values)).one())
            if not new.items:
                return opened
            await insert_items(connection, opened, new.items)
            return await found(connection, caller, opened.id)

    async def get(self, caller: Caller, conversation_id: str) -> Conversation:
        """Return a conversation; see the port."""
        async with reading(self._engine) as connection:
            return await found(connection, caller, conversation_id)

    async def list(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None,
        oldest_first: bool = False,
        only: ConversationFilter | None = None,
    ) -> tuple[Sequence[Conversation], bool]:
        """Return a page of conversations; see the port. An `after` that was never an id is a bound all the same."""
        only = only or ConversationFilter()
        if not all(can_exist(text) for text in (after, only.agent, only.user_id) if text is not None):
            return (), False
        statement = select(*CONVERSATION_COLUMNS).where(*of_caller(caller, "chat"))
        number = conversations.c.id
        if after is not None:
            statement = statement.where(number > after if oldest_first else number < after)
        if only.agent is not None:
            statement = statement.where(
                or_(conversations.c.agent == only.agent, conversations.c.last_agent == only.agent)
            )
        if only.user_id is not None:
            statement = statement.where(conversations.c.user_id == only.user_id)
        statement = statement.order_by(number if oldest_first else number.desc()).limit(limit + 1)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement)).all()
        return [conversation_of(row) for row in rows[:limit]], len(rows) > limit

    async def update(
        self, caller: Caller, conversation_id: str, changes: Mapping[Literal["title", "metadata"], Any]
    ) -> Conversation:
        """Set title or metadata; see the port."""
        check_form(conversation_id)
        statement = (
            update(conversations)
            .where(*owned(caller, conversation_id, "chat"))
            .values({**changes, "updated_at": datetime.now(UTC)})
            .returning(*CONVERSATION_COLUMNS)
        )
        async with writing(self._engine) as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise ConversationNotFound(conversation_id)
        return conversation_of(row)

    async def messages(
        self, caller: Caller, conversation_id: str, *, limit: int | None = None, after: int = 0
    ) -> Sequence[Message]:
        """Return messages; see the port."""
        belongs = and_(messages.c.conversation_id == conversations.c.id, messages.c.position > after)
        statement = select(messages).select_from(conversations.outerjoin(messages, belongs))
        statement = statement.order_by(messages.c.position).limit(limit)
        return [message_of(row) for row in await self._joined(caller, conversation_id, statement) if row.position]

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
        check_form(conversation_id)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(statement.where(*owned(caller, conversation_id, "chat")))).all()
        if not rows:
            await self.get(caller, conversation_id)
        return rows

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        """Delete every row of a conversation; see the port."""
        check_form(conversation_id)
        async with writing(self._engine) as connection:
            if not await delete_thread(connection, caller, conversation_id, "chat"):
                raise ConversationNotFound(conversation_id)


_INSERT = insert(conversations).returning(*CONVERSATION_COLUMNS)


def _values(caller: Caller, agent: str | None, provider: str) -> dict[str, Any]:
    """Return the columns of an empty conversation whose history is kept here."""
    conversation_id = new_conversation_id()
    now = datetime.now(UTC)
    return {
        "id": conversation_id,
        "organization_id": caller.organization_id,
        "user_id": caller.user_id,
        "agent": agent,
        "metadata": {},
        "kind": "chat",
        "provider": provider,
        "sdk_session_id": session_key(caller.organization_id, conversation_id),
        "run_count": 0,
        "message_count": 0,
        "created_at": now,
        "updated_at": now,
    }
