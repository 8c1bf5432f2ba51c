"""The table of links that show a conversation to whoever holds them, as the migrations make it."""

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table

from app.infrastructure.persistence.tables import UtcDateTime, conversations, metadata

conversation_shares = Table(
    "conversation_shares",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("conversation_id", ForeignKey(conversations.c.id, ondelete="CASCADE"), nullable=False),
    Column("token_hash", String(64), nullable=False, unique=True),
    # The last message that is shown: what is said after a link was made is not in it.
    Column("last_message", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index(None, "conversation_id", "id"),
)
