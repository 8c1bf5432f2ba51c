"""Rows of a conversation's history: how one is found by its id, and how items and what they say are added."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.item_ids import could_be_own_item_id, own_item_id, row_item_id, row_of_item_id
from app.domain.item_texts import spoken
from app.domain.models.conversations import Conversation, ConversationItem, Item
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.conversation_rows import decoded_item
from app.infrastructure.persistence.journal_sql import HISTORY_TABLE, TOUCH_SESSION
from app.infrastructure.persistence.run_rows import plain_text
from app.infrastructure.persistence.tables import conversations, messages, sdk_messages

MAX_TITLE_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class ItemRow:
    """A row of the history that holds an item."""

    row: int
    item: Item

    @property
    def by_row(self) -> ConversationItem:
        """The item under the id that its row gives it."""
        return ConversationItem(row_item_id(self.item, self.row), self.item)

    @property
    def by_own_id(self) -> ConversationItem:
        """The item under its own id, where that can name it."""
        return ConversationItem(own_item_id(self.item) or row_item_id(self.item, self.row), self.item)


def rows_of(session_id: str) -> Select[int, str]:
    """Return the statement for all rows of a history."""
    return select(sdk_messages.c.id, sdk_messages.c.message_data).where(sdk_messages.c.session_id == session_id)


def beyond(row: int, *, oldest_first: bool) -> ColumnElement[bool]:
    """Return the condition for rows behind (or, newest first, in front of) a row in the order of reading.

    Times are compared where they are: read and written back they would change their form on SQLite.
    """
    at = select(sdk_messages.c.created_at).where(sdk_messages.c.id == row).scalar_subquery()
    time, number = sdk_messages.c.created_at, sdk_messages.c.id
    if oldest_first:
        return or_(time > at, and_(time == at, number > row))
    return or_(time < at, and_(time == at, number < row))


def in_order(statement: Select[int, str], *, oldest_first: bool) -> Select[int, str]:
    """Return a statement in the order of reading, or against it."""
    columns = (sdk_messages.c.created_at, sdk_messages.c.id)
    return statement.order_by(*(column if oldest_first else column.desc() for column in columns))


async def item_row(connection: AsyncConnection, session_id: str, item_id: str) -> ItemRow | None:
    """Return the row that an id names; of several items with this id of their own, the first."""
    row = row_of_item_id(item_id)
    if row is not None:
        found = (await connection.execute(rows_of(session_id).where(sdk_messages.c.id == row))).one_or_none()
        known = None if found is None else stored_item(found)
        return known if known is not None and known.by_row.id == item_id else None
    if not could_be_own_item_id(item_id):
        return None
    same = await _rows_with_own_id(connection, session_id, item_id)
    return same[0] if same else None


async def is_ambiguous(connection: AsyncConnection, session_id: str, item_id: str) -> bool:
    """Tell whether several items of a history have this id of their own."""
    return len(await _rows_with_own_id(connection, session_id, item_id)) > 1


async def _rows_with_own_id(connection: AsyncConnection, session_id: str, item_id: str) -> list[ItemRow]:
    # Both writers of these rows encode without spaces; what is meant is looked at again, as text may hold such words.
    written = sdk_messages.c.message_data.contains(f'"id":"{item_id}"', autoescape=True)
    rows = (await connection.execute(in_order(rows_of(session_id).where(written), oldest_first=True))).all()
    return [known for known in stored_items(rows) if own_item_id(known.item) == item_id]


def stored_items(rows: Sequence[Row[*tuple[Any, ...]]]) -> list[ItemRow]:
    """Return the items of rows, without those that hold none."""
    return [known for row in rows if (known := stored_item(row)) is not None]


def stored_item(row: Row[*tuple[Any, ...]]) -> ItemRow | None:
    """Return the item of a row; None: it holds none."""
    item = decoded_item(row.message_data)
    return None if item is None else ItemRow(row.id, item)


async def insert_items(connection: AsyncConnection, conversation: Conversation, items: Sequence[Item]) -> list[ItemRow]:
    """Add items to a history and what they say to the messages; the conversation's row is locked.

    An id that an item of the conversation has already is taken off: the new item is named by its row.
    """
    kept = await _without_known_ids(connection, conversation.sdk_session_id, items)
    added: list[ItemRow] = []
    if kept:
        history = HISTORY_TABLE[connection.dialect.name]
        touch = TOUCH_SESSION[connection.dialect.name]
        session_id = conversation.sdk_session_id
        written_at = (await connection.execute(touch, {"session_id": session_id})).scalar_one()
        rows = [
            {"session_id": session_id, "message_data": json_text.encode(item), "created_at": written_at}
            for item in kept
        ]
        numbers = await connection.execute(insert(history).returning(history.c.id, sort_by_parameter_order=True), rows)
        added = [ItemRow(row, item) for row, item in zip(numbers.scalars(), kept, strict=True)]
    await _say(connection, conversation, kept)
    return added


async def _without_known_ids(connection: AsyncConnection, session_id: str, items: Sequence[Item]) -> list[Item]:
    seen: set[str] = set()
    kept: list[Item] = []
    for item in items:
        own = own_item_id(item)
        if own is not None and (own in seen or await _rows_with_own_id(connection, session_id, own)):
            item = {name: value for name, value in item.items() if name != "id"}  # noqa: PLW2901 - the one that is kept
        elif own is not None:
            seen.add(own)
        kept.append(item)
    return kept


async def _say(connection: AsyncConnection, conversation: Conversation, items: Sequence[Item]) -> None:
    now = datetime.now(UTC)
    said = [words for item in items if (words := spoken(item)) is not None]
    asked = next((" ".join(text.split()) for speaker, text in said if speaker == "user"), "")
    values: dict[str, Any] = {"message_count": conversations.c.message_count + len(said), "updated_at": now}
    if title := plain_text(asked)[:MAX_TITLE_CHARS]:
        values["title"] = func.coalesce(conversations.c.title, title)
    statement = update(conversations).where(conversations.c.id == conversation.id).values(values)
    count = (await connection.execute(statement.returning(conversations.c.message_count))).scalar_one()
    if said:
        await connection.execute(
            insert(messages), spoken_rows(conversation.id, said, first=count - len(said) + 1, at=now)
        )


def spoken_rows(
    conversation_id: str, said: Sequence[tuple[str, str]], *, first: int, at: datetime
) -> list[dict[str, Any]]:
    """Return rows of messages that no run has written, with positions from `first` on."""
    return [
        {
            "conversation_id": conversation_id,
            "position": position,
            "role": speaker,
            "text": plain_text(text),
            "created_at": at,
        }
        for position, (speaker, text) in enumerate(said, start=first)
    ]
