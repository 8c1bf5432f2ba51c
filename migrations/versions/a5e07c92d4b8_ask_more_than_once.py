"""Let a run ask for approvals more than once; mark conversations that are not kept.

A run still ends once: its other events stay unique. Going down, requests for approval are forgotten.

Revision ID: a5e07c92d4b8
Revises: f7a1c93e5b60
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "a5e07c92d4b8"
down_revision = "f7a1c93e5b60"
branch_labels = None
depends_on = None

ENDS = sa.text("type != 'approval.requested'")
STATELESS = sa.text("stateless IS NOT NULL")


def upgrade() -> None:
    with op.batch_alter_table("completion_events") as events:
        events.drop_constraint("uq_completion_events_run_id_type", type_="unique")
    op.create_index(
        "uq_completion_events_run_end",
        "completion_events",
        ["run_id", "type"],
        unique=True,
        sqlite_where=ENDS,
        postgresql_where=ENDS,
    )
    op.add_column("agent_conversations", sa.Column("stateless", sa.Boolean))
    op.create_index(
        "ix_agent_conversations_stateless",
        "agent_conversations",
        ["created_at"],
        sqlite_where=STATELESS,
        postgresql_where=STATELESS,
    )


def downgrade() -> None:
    op.drop_index("ix_agent_conversations_stateless", "agent_conversations")
    op.drop_column("agent_conversations", "stateless")
    op.execute(sa.text("DELETE FROM completion_events WHERE type = 'approval.requested' AND run_id IS NOT NULL"))
    op.drop_index("uq_completion_events_run_end", "completion_events")
    with op.batch_alter_table("completion_events") as events:
        events.create_unique_constraint("uq_completion_events_run_id_type", ["run_id", "type"])
