"""What the parts of the conversation store share: rows to models, and the conversation that a statement is about."""

from typing import Any, Final

from sqlalchemy import Column, Row, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.errors import ConversationNotFound, RunConflict
from app.domain.models.conversations import Caller, Conversation, Item, Message
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.journal_sql import UNFINISHED_RUN
from app.infrastructure.persistence.owned_rows import can_exist, owned
from app.infrastructure.persistence.tables import conversations, runs

CONVERSATION_COLUMNS: Final[tuple[Column[Any], ...]] = (
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


class ConversationPart:
    """One subject of the conversation store.

    Lock order, as in the journal: the conversation's row, then its runs, then the SDK session's.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine


def conversation_of(row: Row[*tuple[Any, ...]]) -> Conversation:
    """Return the conversation of a row of `CONVERSATION_COLUMNS`."""
    return Conversation(*row)  # the columns are in the order of the fields


def message_of(row: Row[*tuple[Any, ...]]) -> Message:
    """Return the message of a row of `agent_messages`."""
    return Message(row.position, row.role, row.text, row.run_id, row.agent, row.created_at)


def decoded_item(message_data: str | None) -> Item | None:
    """Return the item of a row of the SDK's messages; None when it holds no JSON object."""
    if message_data is None:
        return None
    try:
        item = json_text.decode(message_data)
    except ValueError:
        return None  # the SDK skips such rows as well
    return item if isinstance(item, dict) else None


async def found(
    connection: AsyncConnection, caller: Caller, conversation_id: str, *, lock: bool = False
) -> Conversation:
    """Return a conversation of the caller, locked until the transaction ends if that is asked for.

    Raises:
        ConversationNotFound: it does not exist for this caller.
    """
    check_form(conversation_id)
    statement = select(*CONVERSATION_COLUMNS).where(*owned(caller, conversation_id, "chat"))
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    if row is None:
        raise ConversationNotFound(conversation_id)
    return conversation_of(row)


async def check_quiet(connection: AsyncConnection, conversation: Conversation) -> None:
    """Make sure that nobody else is about to write to the history; the conversation's row is locked.

    Raises:
        RunConflict: a run has not ended (`conversation_busy`), or a provider keeps the history (`history_elsewhere`).
    """
    if conversation.provider_conversation_id is not None:
        raise RunConflict(
            "The history of this conversation is kept at the model's provider; it cannot be changed here. Fork it.",
            reason="history_elsewhere",
            param="conversation_id",
        )
    unfinished = select(literal(1)).where(runs.c.conversation_id == conversation.id, UNFINISHED_RUN).limit(1)
    if (await connection.execute(unfinished)).first() is not None:
        raise RunConflict(
            "A run of this conversation has not ended. Wait for it, or cancel it.",
            reason="conversation_busy",
            param="conversation_id",
        )


def check_form(conversation_id: str) -> None:
    """Refuse an id that no row can have.

    Raises:
        ConversationNotFound: always then.
    """
    if not can_exist(conversation_id):
        raise ConversationNotFound(conversation_id)
