"""Create the conversations, the app's own history, and the client sessions.

Revision ID: c8a86589e6ff
Revises:
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "c8a86589e6ff"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "agent_conversations",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255)),
        sa.Column("agent", sa.String(64)),
        sa.Column("last_agent", sa.String(64)),
        sa.Column("title", sa.String(255)),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("provider_conversation_id", sa.String(128)),
        sa.Column("memory", sa.Text),
        sa.Column("run_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("message_count", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_conversations")),
    )
    op.create_index(
        op.f("ix_agent_conversations_organization_id_user_id_id"),
        "agent_conversations",
        ["organization_id", "user_id", "id"],
    )
    op.create_table(
        "agent_messages",
        sa.Column("conversation_id", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("agent", sa.String(64)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "position", name=op.f("pk_agent_messages")),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["agent_conversations.id"],
            name=op.f("fk_agent_messages_conversation_id_agent_conversations"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "client_sessions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255)),
        sa.Column("agent", sa.String(64)),
        sa.Column("conversation_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client_sessions")),
    )
    # Deleting a conversation ends the sessions that point to it.
    op.create_index(op.f("ix_client_sessions_conversation_id"), "client_sessions", ["conversation_id"])


def downgrade() -> None:
    op.drop_table("client_sessions")
    op.drop_table("agent_messages")
    op.drop_table("agent_conversations")
