"""Items of conversations one by one: pages, additions, deletions."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput
from app.domain.item_ids import item_kind
from app.domain.item_texts import spoken
from app.domain.models.conversations import Caller, Conversation, ConversationItem, Item
from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.conversation_rows import ConversationPart, check_quiet, found
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.item_rows import (
    ItemRow,
    beyond,
    in_order,
    insert_items,
    is_ambiguous,
    item_row,
    rows_of,
    stored_items,
)
from app.infrastructure.persistence.run_rows import plain_text
from app.infrastructure.persistence.share_tables import conversation_shares
from app.infrastructure.persistence.tables import conversations, messages, runs, sdk_messages
from app.infrastructure.providers.openai.item_pairs import OUTPUT_OF_CALL

_NAMES_OF_CALL: Final = ("call_id", "id")
_NAMES_IN_OUTPUT: Final = ("call_id", "approval_request_id", "id")
_MOST_REASONING: Final = 16
"""How many reasoning items in a row are looked at; models write one or two."""


class ConversationItems(ConversationPart):
    """The items of a conversation's history."""

    async def item_page(
        self, caller: Caller, conversation_id: str, *, limit: int, after: str | None, oldest_first: bool
    ) -> tuple[Sequence[ConversationItem], bool]:
        """Return a page of items; see the port."""
        async with reading(self._engine) as connection:
            session_id = (await found(connection, caller, conversation_id)).sdk_session_id
            bound = None
            if after is not None:
                bound = await item_row(connection, session_id, after)
                if bound is None:
                    raise InvalidInput("There is no item with this id in the conversation.", param="after")
            rows = await _read(connection, session_id, limit + 1, None if bound is None else bound.row, oldest_first)
            page = rows[:limit]
            shown: dict[str, ConversationItem] = {}
            for entry in page:
                by_own_id = entry.by_own_id
                named = entry.by_row if by_own_id.id in shown else by_own_id
                shown[named.id] = named
            items = list(shown.values())
            if (
                items
                and items[-1].id != page[-1].by_row.id
                and await is_ambiguous(connection, session_id, items[-1].id)
            ):
                items[-1] = page[-1].by_row
            return items, len(rows) > limit

    async def item(self, caller: Caller, conversation_id: str, item_id: str) -> ConversationItem | None:
        """Return an item; see the port."""
        async with reading(self._engine) as connection:
            session_id = (await found(connection, caller, conversation_id)).sdk_session_id
            known = await item_row(connection, session_id, item_id)
        return None if known is None else ConversationItem(item_id, known.item)

    async def add_items(
        self, caller: Caller, conversation_id: str, items: Sequence[Item]
    ) -> Sequence[ConversationItem]:
        """Add items at the end; see the port."""
        async with writing(self._engine) as connection:
            conversation = await found(connection, caller, conversation_id, lock=True)
            await check_quiet(connection, conversation)
            return [added.by_own_id for added in await insert_items(connection, conversation, items)]

    async def delete_item(self, caller: Caller, conversation_id: str, item_id: str) -> Conversation | None:
        """Delete an item and what cannot stand without it; see the port."""
        async with writing(self._engine) as connection:
            conversation = await found(connection, caller, conversation_id, lock=True)
            await check_quiet(connection, conversation)
            session_id = conversation.sdk_session_id
            named = await item_row(connection, session_id, item_id)
            if named is None:
                return None
            gone = [named, *await _outputs_of(connection, session_id, named)]
            gone += await _reasoning_before(connection, session_id, gone)
            rows = [entry.row for entry in gone]
            await connection.execute(delete(sdk_messages).where(sdk_messages.c.id.in_(rows)))
            for entry in gone:
                await _unsay(connection, conversation.id, entry.item)
            return await found(connection, caller, conversation_id)


async def _read(
    connection: AsyncConnection, session_id: str, number: int, bound: int | None, oldest_first: bool
) -> list[ItemRow]:
    """Return up to `number` items in the order of reading or against it; rows that hold none are passed over."""
    items: list[ItemRow] = []
    while True:
        statement = in_order(rows_of(session_id), oldest_first=oldest_first).limit(number - len(items))
        if bound is not None:
            statement = statement.where(beyond(bound, oldest_first=oldest_first))
        asked = number - len(items)
        rows = (await connection.execute(statement)).all()
        items += stored_items(rows)
        if len(items) >= number or len(rows) < asked:
            return items
        bound = rows[-1].id


async def _outputs_of(connection: AsyncConnection, session_id: str, call: ItemRow) -> list[ItemRow]:
    """Return the output of a call; a name that was used twice means the next output of it."""
    output_kind = OUTPUT_OF_CALL.get(item_kind(call.item))
    names = {name for field in _NAMES_OF_CALL if isinstance(name := call.item.get(field), str) and name}
    if output_kind is None or not names:
        return []
    for name in sorted(names):
        written = sdk_messages.c.message_data.contains(json_text.encode(name), autoescape=True)
        statement = rows_of(session_id).where(written, beyond(call.row, oldest_first=True))
        later = stored_items((await connection.execute(in_order(statement, oldest_first=True))).all())
        for entry in later:
            if item_kind(entry.item) == output_kind and any(entry.item.get(f) == name for f in _NAMES_IN_OUTPUT):
                return [entry]
    return []


async def _reasoning_before(connection: AsyncConnection, session_id: str, gone: Sequence[ItemRow]) -> list[ItemRow]:
    """Return the reasoning that led to a deleted item alone: endpoints refuse it in front of anything else.

    At the very end of the history it stays, so that items can be taken off the end one by one.
    """
    first, last = gone[0].row, gone[-1].row
    if item_kind(gone[0].item) == "reasoning":
        return []
    taken = {entry.row for entry in gone}
    behind = await _read(connection, session_id, 2, first, oldest_first=True)
    following = next((entry for entry in behind if entry.row not in taken), None)
    if following is None and last != first:
        following = next(iter(await _read(connection, session_id, 1, last, oldest_first=True)), None)
    if following is None or _is_answer(following.item):
        return []
    before = await _read(connection, session_id, _MOST_REASONING, first, oldest_first=False)
    reasoning: list[ItemRow] = []
    for entry in before:
        if item_kind(entry.item) != "reasoning":
            break
        reasoning.append(entry)
    return reasoning


def _is_answer(item: Item) -> bool:
    """Tell whether an item is what a model has said or called."""
    kind = item_kind(item)
    if kind == "message":
        return item.get("role") == "assistant"
    return kind not in OUTPUT_OF_CALL.values()


async def _unsay(connection: AsyncConnection, conversation_id: str, item: Item) -> None:
    """Delete the latest message for people that says what an item said, and close the gap."""
    words = spoken(item)
    if words is None:
        return
    speaker, said = words
    in_conversation = messages.c.conversation_id == conversation_id
    statement = (
        select(messages.c.position)
        .where(in_conversation, messages.c.role == speaker, messages.c.text == plain_text(said))
        .order_by(messages.c.position.desc())
        .limit(1)
    )
    position = (await connection.execute(statement)).scalar_one_or_none()
    if position is None:
        return
    await connection.execute(delete(messages).where(in_conversation, messages.c.position == position))
    # In two steps: a position is taken until its message has moved.
    number = messages.c.position
    moved: list[Any] = [
        update(messages).where(in_conversation, number > position).values(position=-number),
        update(messages).where(in_conversation, number < 0).values(position=-number - 1),
        update(conversations)
        .where(conversations.c.id == conversation_id)
        .values(message_count=conversations.c.message_count - 1),
        update(runs)
        .where(runs.c.conversation_id == conversation_id, runs.c.last_message >= position)
        .values(last_message=runs.c.last_message - 1),
        update(conversation_shares)
        .where(conversation_shares.c.conversation_id == conversation_id, conversation_shares.c.last_message >= position)
        .values(last_message=conversation_shares.c.last_message - 1),
    ]
    for statement_of_move in moved:
        await connection.execute(statement_of_move)
