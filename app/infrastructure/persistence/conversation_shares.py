"""Links that show a conversation's messages, in our tables."""

from collections.abc import Sequence
from datetime import datetime
from hmac import compare_digest
from typing import Any

from sqlalchemy import Row, delete, insert, select

from app.domain.models.conversations import Caller, Share, SharedPage
from app.infrastructure.persistence.conversation_rows import ConversationPart, found, message_of
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.owned_rows import can_exist
from app.infrastructure.persistence.share_tables import conversation_shares
from app.infrastructure.persistence.tables import conversations, messages

_COLUMNS = (
    conversation_shares.c.id,
    conversation_shares.c.conversation_id,
    conversation_shares.c.created_at,
    conversation_shares.c.expires_at,
)


class ConversationShares(ConversationPart):
    """The links of a conversation, and what they show."""

    async def share(self, caller: Caller, conversation_id: str, share: Share, token_hash: str) -> Share:
        """Keep a link; see the port."""
        of_conversation = conversation_shares.c.conversation_id == conversation_id
        async with writing(self._engine) as connection:
            conversation = await found(connection, caller, conversation_id, lock=True)
            expired = conversation_shares.c.expires_at <= share.created_at
            await connection.execute(delete(conversation_shares).where(of_conversation, expired))
            values = {
                "id": share.id,
                "conversation_id": conversation.id,
                "token_hash": token_hash,
                "last_message": conversation.message_count,
                "created_at": share.created_at,
                "expires_at": share.expires_at,
            }
            await connection.execute(insert(conversation_shares), values)
        return share

    async def shares(
        self, caller: Caller, conversation_id: str, *, limit: int, after: str | None, now: datetime
    ) -> tuple[Sequence[Share], bool]:
        """Return a page of links; see the port."""
        async with reading(self._engine) as connection:
            await found(connection, caller, conversation_id)
            if after is not None and not can_exist(after):
                return (), False
            statement = select(*_COLUMNS).where(
                conversation_shares.c.conversation_id == conversation_id, conversation_shares.c.expires_at > now
            )
            if after is not None:
                statement = statement.where(conversation_shares.c.id > after)
            rows = (await connection.execute(statement.order_by(conversation_shares.c.id).limit(limit + 1))).all()
        return [_share(row) for row in rows[:limit]], len(rows) > limit

    async def unshare(self, caller: Caller, conversation_id: str, share_id: str) -> bool:
        """Delete a link; see the port."""
        async with writing(self._engine) as connection:
            await found(connection, caller, conversation_id, lock=True)
            if not can_exist(share_id):
                return False
            named = delete(conversation_shares).where(
                conversation_shares.c.id == share_id, conversation_shares.c.conversation_id == conversation_id
            )
            return (await connection.execute(named)).rowcount == 1

    async def shared(self, token_hash: str, *, now: datetime, limit: int, after: int) -> SharedPage | None:
        """Return what a link shows; see the port. What may be found by time is only the hash, never the token."""
        statement = select(conversation_shares, conversations.c.title).join(
            conversations, conversations.c.id == conversation_shares.c.conversation_id
        )
        async with reading(self._engine) as connection:
            named = statement.where(conversation_shares.c.token_hash == token_hash)
            row = (await connection.execute(named)).one_or_none()
            if row is None or not compare_digest(row.token_hash, token_hash) or row.expires_at <= now:
                return None
            said = (
                select(messages)
                .where(
                    messages.c.conversation_id == row.conversation_id,
                    messages.c.position > after,
                    messages.c.position <= row.last_message,
                )
                .order_by(messages.c.position)
                .limit(limit + 1)
            )
            rows = (await connection.execute(said)).all()
        shown = [message_of(entry) for entry in rows[:limit]]
        return SharedPage(row.title, row.created_at, row.expires_at, shown, len(rows) > limit)


def _share(row: Row[*tuple[Any, ...]]) -> Share:
    return Share(*row)  # the columns are in the order of the fields
