"""Rows of one caller: the conditions every statement on conversations shares, and how a whole thread is deleted."""

import re
from typing import Final, Literal

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.models.conversations import Caller
from app.infrastructure.persistence.tables import client_sessions, conversations, sdk_sessions

Kind = Literal["chat", "memory"]
"""`chat`: a conversation. `memory`: the runtime memory of seed 000. Neither store sees the other's rows."""

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def can_exist(key: str) -> bool:
    """Tell whether a key may be in a row at all: no text column takes NUL or a lone surrogate, so do not ask."""
    return _UNSTORABLE.search(key) is None


def of_caller(caller: Caller, kind: Kind) -> list[ColumnElement[bool]]:
    """Return the conditions for all conversations of a caller; without a user, those of the whole organization."""
    conditions = [conversations.c.organization_id == caller.organization_id, conversations.c.kind == kind]
    return conditions if caller.user_id is None else [*conditions, conversations.c.user_id == caller.user_id]


def owned(caller: Caller, conversation_id: str, kind: Kind) -> list[ColumnElement[bool]]:
    """Return the conditions for one conversation of a caller."""
    return [conversations.c.id == conversation_id, *of_caller(caller, kind)]


async def delete_thread(connection: AsyncConnection, caller: Caller, conversation_id: str, kind: Kind) -> bool:
    """Delete every row of a conversation but its usage and completion events; False when there is none.

    Lock order, as everywhere: the conversation's row, then (by the cascade) its runs, then the SDK session.
    """
    conditions = owned(caller, conversation_id, kind)
    found = (
        await connection.execute(select(conversations.c.sdk_session_id).where(*conditions).with_for_update())
    ).one_or_none()
    if found is None:
        return False
    await connection.execute(delete(conversations).where(*conditions))
    if found.sdk_session_id is not None:
        await connection.execute(delete(sdk_sessions).where(sdk_sessions.c.session_id == found.sdk_session_id))
    await connection.execute(
        delete(client_sessions).where(
            client_sessions.c.organization_id == caller.organization_id,
            client_sessions.c.conversation_id == conversation_id,
        )
    )
    return True
