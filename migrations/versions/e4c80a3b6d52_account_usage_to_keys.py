"""Account usage to projects and keys, record calls that belong to no run, and know conversations by foreign threads.

What is there already was made by runs, for no project and with no key. Going down, the calls of no conversation stay
on the bill, with an empty conversation id.

Revision ID: e4c80a3b6d52
Revises: d3b7f5209c41
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "e4c80a3b6d52"
down_revision = "d3b7f5209c41"
branch_labels = None
depends_on = None

NAMED = sa.text("thread_key IS NOT NULL")


def upgrade() -> None:
    # By what name a client of another protocol knows a conversation; a digest, unique over all tenants.
    op.add_column("agent_conversations", sa.Column("thread_key", sa.String(64)))
    op.create_index(
        "uq_agent_conversations_thread_key",
        "agent_conversations",
        ["thread_key"],
        unique=True,
        sqlite_where=NAMED,
        postgresql_where=NAMED,
    )
    op.add_column("agent_runs", sa.Column("project_id", sa.String(64)))
    op.add_column("agent_runs", sa.Column("api_key_id", sa.String(64)))
    with op.batch_alter_table("agent_run_usage") as usage:
        usage.add_column(sa.Column("project_id", sa.String(64)))
        usage.add_column(sa.Column("api_key_id", sa.String(64)))
        # The release before this one knows of runs only.
        usage.add_column(sa.Column("endpoint", sa.String(32), nullable=False, server_default=sa.text("'run'")))
        usage.add_column(sa.Column("http_status", sa.Integer))
        usage.alter_column("conversation_id", existing_type=sa.String(64), nullable=True)


def downgrade() -> None:
    op.execute(sa.text("UPDATE agent_run_usage SET conversation_id = '' WHERE conversation_id IS NULL"))
    with op.batch_alter_table("agent_run_usage") as usage:
        usage.alter_column("conversation_id", existing_type=sa.String(64), nullable=False)
        usage.drop_column("http_status")
        usage.drop_column("endpoint")
        usage.drop_column("api_key_id")
        usage.drop_column("project_id")
    op.drop_column("agent_runs", "api_key_id")
    op.drop_column("agent_runs", "project_id")
    op.drop_index("uq_agent_conversations_thread_key", "agent_conversations")
    op.drop_column("agent_conversations", "thread_key")
