"""Create the journal of runs: the runs, their steps, events and usage, and the completion events.

Revision ID: 76f2bd8c2650
Revises: 6724700351b6
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "76f2bd8c2650"
down_revision = "6724700351b6"
branch_labels = None
depends_on = None


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", sa.DateTime(timezone=True), nullable=False)


def _money(name: str) -> sa.Column[object]:
    """An exact decimal, which SQLite only has as text."""
    return sa.Column(name, sa.Numeric(20, 10).with_variant(sa.String(32), "sqlite"))


def upgrade() -> None:
    _create_runs()
    _create_steps_and_events()
    _create_usage()
    _create_completion_events()


def _create_runs() -> None:
    op.create_table(
        "agent_runs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("conversation_id", sa.String(64), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255)),
        sa.Column("agent", sa.String(64), nullable=False),
        sa.Column("last_agent", sa.String(64)),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("session_mode", sa.String(16), nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("history_items", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("journal_version", sa.Integer, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("result", sa.Text),
        sa.Column("error_code", sa.String(64)),
        sa.Column("spans", sa.Text),
        sa.Column("trace_id", sa.String(64)),
        sa.Column("last_sequence", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("requests", sa.Integer),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("cached_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("reasoning_tokens", sa.BigInteger),
        _money("cost_usd"),
        _created_at(),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_runs")),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["agent_conversations.id"],
            name=op.f("fk_agent_runs_conversation_id_agent_conversations"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("conversation_id", "position", name=op.f("uq_agent_runs_conversation_id_position")),
    )
    running = sa.text("status = 'running'")
    op.create_index(
        "uq_agent_runs_one_running_per_conversation",
        "agent_runs",
        ["conversation_id"],
        unique=True,
        sqlite_where=running,
        postgresql_where=running,
    )
    unfinished = sa.text("status in ('queued', 'running', 'waiting')")
    op.create_index(
        "ix_agent_runs_unfinished",
        "agent_runs",
        ["conversation_id", "position"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_index(op.f("ix_agent_runs_agent_created_at"), "agent_runs", ["agent", "created_at"])


def _create_steps_and_events() -> None:
    op.create_table(
        "agent_run_steps",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("step", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("agent", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("request_hash", sa.String(64)),
        sa.Column("result", sa.Text),
        sa.Column("response_id", sa.String(255)),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "step", name=op.f("pk_agent_run_steps")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["agent_runs.id"], name=op.f("fk_agent_run_steps_run_id_agent_runs"), ondelete="CASCADE"
        ),
    )
    op.create_table(
        "agent_run_events",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("first_sequence", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("run_id", "sequence", name=op.f("pk_agent_run_events")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["agent_runs.id"], name=op.f("fk_agent_run_events_run_id_agent_runs"), ondelete="CASCADE"
        ),
    )


def _create_usage() -> None:
    op.create_table(
        "agent_run_usage",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("step", sa.String(255), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255)),
        sa.Column("conversation_id", sa.String(64), nullable=False),
        sa.Column("agent", sa.String(255), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("accuracy", sa.String(16), nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        _money("cost_usd"),
        sa.Column("price_version", sa.String(64)),
        sa.Column("response_id", sa.String(255)),
        sa.Column("latency_ms", sa.Integer, nullable=False),
        sa.Column("first_token_ms", sa.Integer),
        _created_at(),
        sa.PrimaryKeyConstraint("run_id", "step", name=op.f("pk_agent_run_usage")),
    )
    op.create_index(
        op.f("ix_agent_run_usage_organization_id_created_at"), "agent_run_usage", ["organization_id", "created_at"]
    )


def _create_completion_events() -> None:
    op.create_table(
        "completion_events",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255)),
        sa.Column("session_id", sa.String(255), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completion_events")),
        sa.UniqueConstraint("run_id", "type", name=op.f("uq_completion_events_run_id_type")),
    )
    op.create_index(
        op.f("ix_completion_events_organization_id_created_at"), "completion_events", ["organization_id", "created_at"]
    )


def downgrade() -> None:
    op.drop_table("completion_events")
    op.drop_table("agent_run_usage")
    op.drop_table("agent_run_events")
    op.drop_table("agent_run_steps")
    op.drop_table("agent_runs")
