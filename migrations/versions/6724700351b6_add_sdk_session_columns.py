"""Add the SDK's session tables, and to a conversation which of those sessions is its own.

The two tables are those of the SDK's SQLAlchemySession; it is given their names and creates nothing itself. Going down
drops the items in them; the conversations and agent_messages stay.

Revision ID: 6724700351b6
Revises: c8a86589e6ff
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "6724700351b6"
down_revision = "c8a86589e6ff"
branch_labels = None
depends_on = None


def _set_by_the_database(name: str) -> sa.Column[object]:
    """A timestamp without a zone: that is how the SDK declares its own."""
    return sa.Column(name, sa.DateTime(timezone=False), server_default=sa.text("CURRENT_TIMESTAMP"), nullable=False)


def upgrade() -> None:
    with op.batch_alter_table("agent_conversations") as conversations:
        conversations.add_column(sa.Column("sdk_session_id", sa.String(255)))
        conversations.add_column(sa.Column("session_cursor", sa.String(128)))
        conversations.add_column(sa.Column("last_session_sync_at", sa.DateTime(timezone=True)))
        conversations.create_unique_constraint(op.f("uq_agent_conversations_sdk_session_id"), ["sdk_session_id"])
    op.create_table(
        "sdk_agent_sessions",
        sa.Column("session_id", sa.String(255), nullable=False),
        _set_by_the_database("created_at"),
        _set_by_the_database("updated_at"),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_sdk_agent_sessions")),
    )
    op.create_table(
        "sdk_agent_session_messages",
        # SQLite counts up by itself only for plain INTEGER.
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=True),
        sa.Column("session_id", sa.String(255), nullable=False),
        sa.Column("message_data", sa.Text, nullable=False),
        _set_by_the_database("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sdk_agent_session_messages")),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sdk_agent_sessions.session_id"],
            name=op.f("fk_sdk_agent_session_messages_session_id_sdk_agent_sessions"),
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "idx_sdk_agent_session_messages_session_time", "sdk_agent_session_messages", ["session_id", "created_at"]
    )


def downgrade() -> None:
    op.drop_table("sdk_agent_session_messages")
    op.drop_table("sdk_agent_sessions")
    with op.batch_alter_table("agent_conversations") as conversations:
        conversations.drop_constraint(op.f("uq_agent_conversations_sdk_session_id"), type_="unique")
        conversations.drop_column("last_session_sync_at")
        conversations.drop_column("session_cursor")
        conversations.drop_column("sdk_session_id")
