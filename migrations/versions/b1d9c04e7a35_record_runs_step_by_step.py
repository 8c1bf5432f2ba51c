"""Let runs be gone on with: cancellations with a reason, idempotency keys, approvals, and indexes to find runs by.

Revision ID: b1d9c04e7a35
Revises: 76f2bd8c2650
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "b1d9c04e7a35"
down_revision = "76f2bd8c2650"
branch_labels = None
depends_on = None

KEYED = sa.text("idempotency_key IS NOT NULL")
UNFINISHED = sa.text("status in ('queued', 'running', 'waiting')")


def upgrade() -> None:
    op.add_column("agent_runs", sa.Column("cancel_reason", sa.String(16)))
    op.add_column("agent_runs", sa.Column("idempotency_key", sa.String(255)))
    op.add_column("agent_runs", sa.Column("request_hash", sa.String(64)))
    # Nothing has ever set it; `cancel_reason` says more.
    op.drop_column("agent_runs", "cancel_requested")
    op.create_index(
        "uq_agent_runs_idempotency_key",
        "agent_runs",
        ["organization_id", "idempotency_key"],
        unique=True,
        sqlite_where=KEYED,
        postgresql_where=KEYED,
    )
    op.create_index(op.f("ix_agent_runs_organization_id_id"), "agent_runs", ["organization_id", "id"])
    op.create_index(
        "ix_agent_runs_open",
        "agent_runs",
        ["organization_id", "id"],
        sqlite_where=UNFINISHED,
        postgresql_where=UNFINISHED,
    )
    op.create_index(op.f("ix_agent_runs_finished_at"), "agent_runs", ["finished_at"])
    op.create_table(
        "agent_run_approvals",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("step", sa.String(255), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("call_id", sa.String(255), nullable=False),
        sa.Column("tool", sa.String(255), nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("agent", sa.String(255), nullable=False),
        sa.Column("scope", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("always", sa.Boolean, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("decided_by", sa.String(255)),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("decided_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("run_id", "step", name=op.f("pk_agent_run_approvals")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["agent_runs.id"], name=op.f("fk_agent_run_approvals_run_id_agent_runs"), ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    op.drop_table("agent_run_approvals")
    op.drop_index(op.f("ix_agent_runs_finished_at"), "agent_runs")
    op.drop_index("ix_agent_runs_open", "agent_runs")
    op.drop_index(op.f("ix_agent_runs_organization_id_id"), "agent_runs")
    op.drop_index("uq_agent_runs_idempotency_key", "agent_runs")
    op.add_column(
        "agent_runs", sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("false"))
    )
    op.drop_column("agent_runs", "request_hash")
    op.drop_column("agent_runs", "idempotency_key")
    op.drop_column("agent_runs", "cancel_reason")
