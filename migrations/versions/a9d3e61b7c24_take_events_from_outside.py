"""Take events from outside: how far the files of spools are recorded, and the keys that tokens are signed with.

Going down, tokens that are out lose their worth, and what a spool still holds is read again from its beginning.

Revision ID: a9d3e61b7c24
Revises: a5e07c92d4b8
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "a9d3e61b7c24"
down_revision = "a5e07c92d4b8"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "completion_spool_cursors",
        sa.Column("segment", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("segment", name="pk_completion_spool_cursors"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("purpose", name="pk_signing_keys"),
    )
    dead = sa.text("state = 'dead'")
    op.create_index(
        "ix_completion_deliveries_dead",
        "completion_deliveries",
        ["destination"],
        sqlite_where=dead,
        postgresql_where=dead,
    )


def downgrade() -> None:
    op.drop_index("ix_completion_deliveries_dead", table_name="completion_deliveries")
    op.drop_table("signing_keys")
    op.drop_table("completion_spool_cursors")
