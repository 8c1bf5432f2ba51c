"""Forks: a conversation copied up to a point. Rows are copied in the database; they do not pass through here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput, RunConflict, RunNotFound
from app.domain.identifiers import new_conversation_id, session_key
from app.domain.item_ids import item_kind
from app.domain.item_texts import spoken
from app.domain.models.conversations import Caller, Conversation, ForkPoint
from app.domain.models.runs import FINAL_STATUSES
from app.infrastructure.persistence.conversation_rows import (
    CONVERSATION_COLUMNS,
    ConversationPart,
    conversation_of,
    found,
)
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.item_rows import (
    ItemRow,
    beyond,
    in_order,
    item_row,
    rows_of,
    spoken_rows,
    stored_items,
)
from app.infrastructure.persistence.journal_sql import TOUCH_SESSION
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.tables import conversations, messages, runs, sdk_messages
from app.infrastructure.providers.openai.item_pairs import pair_safe

_LOOKED_AHEAD: Final = 200
"""How many items behind the point are looked through for the outputs of calls in front of it."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """What a fork takes along."""

    last_item: int | None
    """The highest row id of the history; None: all rows."""
    last_message: int
    last_agent: str | None
    """Who had answered last by then."""
    left_out: tuple[int, ...] = ()
    """Rows in front of the last one that are not copied."""
    said: tuple[tuple[str, str], ...] = ()
    """Messages behind the last one that are copied from items, as no run's end has been reached yet."""


class ConversationForks(ConversationPart):
    """Copies of conversations."""

    async def fork(self, caller: Caller, conversation_id: str, point: ForkPoint) -> Conversation:
        """Copy a conversation up to a point; see the port."""
        async with writing(self._engine) as connection:
            # Locked: the end of a run writes rows and counts them in several statements.
            source = await found(connection, caller, conversation_id, lock=True)
            if point.after_run_id is not None:
                cut = await _cut_behind_run(connection, source, point.after_run_id)
            elif point.after_item_id is not None:
                cut = await _cut_behind_item(connection, source, point.after_item_id)
            else:
                cut = _Cut(None, source.message_count, source.last_agent)
            return await _copy(connection, source, cut, stateless=point.stateless)

    async def is_last_run(self, caller: Caller, conversation_id: str, run_id: str) -> bool:
        """Tell whether a run is its conversation's last one and has ended; see the port."""
        async with reading(self._engine) as connection:
            conversation = await found(connection, caller, conversation_id)
            latest = (
                select(runs.c.id, runs.c.status)
                .where(runs.c.conversation_id == conversation.id)
                .order_by(runs.c.position.desc())
                .limit(1)
            )
            row = (await connection.execute(latest)).one_or_none()
        return row is not None and row.id == run_id and row.status in FINAL_STATUSES


async def _cut_behind_run(connection: AsyncConnection, source: Conversation, run_id: str) -> _Cut:
    """Return what there was when a run had ended.

    Raises:
        RunNotFound: it is none of this conversation.
        RunConflict: it has not ended, or where it ended is not known.
    """
    columns = (runs.c.position, runs.c.status, runs.c.history_end_id, runs.c.last_message, runs.c.last_agent)
    asked = select(*columns).where(runs.c.id == run_id, runs.c.conversation_id == source.id)
    row = (await connection.execute(asked)).one_or_none() if can_exist(run_id) else None
    if row is None:
        raise RunNotFound(run_id)
    if row.status not in FINAL_STATUSES:
        raise RunConflict("The run has not ended. Wait for it, or cancel it.", reason="run_unfinished", param="run_id")
    if row.history_end_id is not None:
        return _Cut(row.history_end_id, row.last_message, row.last_agent)
    later = select(literal(1)).where(runs.c.conversation_id == source.id, runs.c.position > row.position).limit(1)
    if (await connection.execute(later)).first() is None:
        return _Cut(None, source.message_count, source.last_agent)
    raise RunConflict(
        "The run was made by an earlier release, which did not record where it ended. Fork behind one of its items.",
        reason="history_unknown",
        param="run_id",
    )


async def _cut_behind_item(connection: AsyncConnection, source: Conversation, item_id: str) -> _Cut:
    """Return what there is up to an item: whole up to the end of the run before it, then item by item.

    Raises:
        InvalidInput: there is no such item.
    """
    session_id = source.sdk_session_id
    last = await item_row(connection, session_id, item_id)
    if last is None:
        raise InvalidInput("There is no item with this id in the conversation.", param="after_item_id")
    ended = (
        select(runs.c.history_end_id, runs.c.last_message, runs.c.last_agent)
        .where(runs.c.conversation_id == source.id, runs.c.history_end_id <= last.row)
        .order_by(runs.c.history_end_id.desc(), runs.c.position.desc())
        .limit(1)
    )
    before = (await connection.execute(ended)).one_or_none()
    first = 0 if before is None else before.history_end_id
    statement = rows_of(session_id).where(sdk_messages.c.id > first, sdk_messages.c.id <= last.row)
    segment = stored_items((await connection.execute(in_order(statement, oldest_first=True))).all())
    ahead = rows_of(session_id).where(beyond(last.row, oldest_first=True)).limit(_LOOKED_AHEAD)
    following = stored_items((await connection.execute(in_order(ahead, oldest_first=True))).all()) if segment else []
    left_out = _split_calls(segment, following)
    said = [words for entry in segment if entry.row not in left_out and (words := spoken(entry.item)) is not None]
    if before is None:
        return _Cut(last.row, 0, None, tuple(sorted(left_out)), tuple(said))
    return _Cut(last.row, before.last_message, before.last_agent, tuple(sorted(left_out)), tuple(said))


def _split_calls(segment: Sequence[ItemRow], following: Sequence[ItemRow]) -> set[int]:
    """Return the rows of calls whose outputs come behind the cut, with the reasoning that led to nothing else."""
    complete = {id(item) for item in pair_safe([entry.item for entry in (*segment, *following)])}
    alone = {id(item) for item in pair_safe([entry.item for entry in segment])}
    return {
        entry.row
        for entry in segment
        if id(entry.item) in complete and id(entry.item) not in alone and not item_kind(entry.item).endswith("_output")
    }


async def _copy(connection: AsyncConnection, source: Conversation, cut: _Cut, *, stateless: bool) -> Conversation:
    new_id = new_conversation_id()
    now = datetime.now(UTC)
    session_id = session_key(source.organization_id, new_id)
    taken = min(cut.last_message, source.message_count)
    values = {
        "id": new_id,
        "organization_id": source.organization_id,
        "user_id": source.user_id,
        "agent": source.agent,
        "last_agent": cut.last_agent,
        "title": source.title,
        "metadata": dict(source.metadata),
        "kind": "chat",
        "stateless": True if stateless else None,
        "provider": source.provider,
        "sdk_session_id": session_id,
        "run_count": 0,
        "message_count": taken + len(cut.said),
        "created_at": now,
        "updated_at": now,
    }
    made: Row[Any] = (await connection.execute(insert(conversations).returning(*CONVERSATION_COLUMNS), values)).one()
    await connection.execute(TOUCH_SESSION[connection.dialect.name], {"session_id": session_id})
    await _copy_history(connection, source, cut, session_id)
    copied = ("position", "role", "text", "run_id", "agent", "created_at")
    said = select(literal(new_id), *(messages.c[name] for name in copied)).where(
        messages.c.conversation_id == source.id, messages.c.position <= taken
    )
    await connection.execute(insert(messages).from_select(["conversation_id", *copied], said))
    if cut.said:
        await connection.execute(insert(messages), spoken_rows(new_id, cut.said, first=taken + 1, at=now))
    return conversation_of(made)


async def _copy_history(connection: AsyncConnection, source: Conversation, cut: _Cut, session_id: str) -> None:
    """Copy rows with their times, in the order of reading: the copy is read in the same order."""
    data, time, number = sdk_messages.c.message_data, sdk_messages.c.created_at, sdk_messages.c.id
    history = select(literal(session_id), data, time).where(sdk_messages.c.session_id == source.sdk_session_id)
    if cut.last_item is not None:
        history = history.where(number <= cut.last_item)
    if cut.left_out:
        history = history.where(number.not_in(cut.left_out))
    history = history.order_by(time, number)
    await connection.execute(insert(sdk_messages).from_select(["session_id", "message_data", "created_at"], history))
