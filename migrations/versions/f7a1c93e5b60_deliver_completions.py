"""Deliver completion events: their order, what each destination has got, and endpoints that tenants register.

Events may come from outside, and then belong to no run. Going down, those are deleted, and what was delivered is
forgotten.

Revision ID: f7a1c93e5b60
Revises: e4c80a3b6d52
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "f7a1c93e5b60"
down_revision = "e4c80a3b6d52"
branch_labels = None
depends_on = None

UNPLACED = sa.text("position IS NULL")
PENDING = sa.text("state = 'pending'")


def upgrade() -> None:
    with op.batch_alter_table("completion_events") as events:
        # Ids from outside are the caller's.
        events.alter_column("id", existing_type=sa.String(36), type_=sa.String(64), existing_nullable=False)
        events.alter_column("run_id", existing_type=sa.String(64), nullable=True)
        events.add_column(sa.Column("source", sa.String(64)))
        events.add_column(sa.Column("position", sa.BigInteger))
    op.create_index("ix_completion_events_position", "completion_events", ["position"], unique=True)
    op.create_index(
        "ix_completion_events_organization_id_position", "completion_events", ["organization_id", "position"]
    )
    op.create_index(
        "ix_completion_events_unplaced",
        "completion_events",
        ["created_at", "id"],
        sqlite_where=UNPLACED,
        postgresql_where=UNPLACED,
    )
    op.create_table(
        "completion_sequence",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("last_position", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_completion_sequence"),
    )
    op.create_table(
        "completion_destinations",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("resume_at_ms", sa.BigInteger, nullable=False),
        sa.Column("last_success_ms", sa.BigInteger),
        sa.Column("last_failure_ms", sa.BigInteger),
        sa.Column("last_error", sa.String(500)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_completion_destinations"),
    )
    _create_deliveries()
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("event_types", sa.Text, nullable=False),
        sa.Column("secret", sa.String(255), nullable=False),
        sa.Column("previous_secret", sa.String(255)),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
    )
    op.create_index("ix_webhook_endpoints_organization_id_id", "webhook_endpoints", ["organization_id", "id"])


def _create_deliveries() -> None:
    op.create_table(
        "completion_deliveries",
        sa.Column("destination", sa.String(128), nullable=False),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("ordering_key", sa.String(64)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_ms", sa.BigInteger, nullable=False),
        sa.Column("first_failure_ms", sa.BigInteger),
        sa.Column("last_error", sa.String(500)),
        sa.Column("history", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("destination", "event_id", name="pk_completion_deliveries"),
    )
    op.create_index(
        "ix_completion_deliveries_destination_position", "completion_deliveries", ["destination", "position"]
    )
    op.create_index("ix_completion_deliveries_event_id", "completion_deliveries", ["event_id"])
    op.create_index(
        "ix_completion_deliveries_pending",
        "completion_deliveries",
        ["destination", "position"],
        sqlite_where=PENDING,
        postgresql_where=PENDING,
    )
    op.create_index(
        "ix_completion_deliveries_pending_key",
        "completion_deliveries",
        ["destination", "ordering_key", "position"],
        sqlite_where=PENDING,
        postgresql_where=PENDING,
    )


def downgrade() -> None:
    op.drop_table("webhook_endpoints")
    op.drop_table("completion_deliveries")
    op.drop_table("completion_destinations")
    op.drop_table("completion_sequence")
    op.drop_index("ix_completion_events_unplaced", "completion_events")
    op.drop_index("ix_completion_events_organization_id_position", "completion_events")
    op.drop_index("ix_completion_events_position", "completion_events")
    op.execute(sa.text("DELETE FROM completion_events WHERE run_id IS NULL"))
    with op.batch_alter_table("completion_events") as events:
        events.drop_column("position")
        events.drop_column("source")
        events.alter_column("run_id", existing_type=sa.String(64), nullable=False)
        events.alter_column("id", existing_type=sa.String(64), type_=sa.String(36), existing_nullable=False)
