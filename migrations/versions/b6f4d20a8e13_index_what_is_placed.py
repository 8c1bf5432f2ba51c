"""Index events once they have a position, and by run only those that belong to one: half the indexes of a new row.

Going down, every event is in every index again.

Revision ID: b6f4d20a8e13
Revises: a9d3e61b7c24
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "b6f4d20a8e13"
down_revision = "a9d3e61b7c24"
branch_labels = None
depends_on = None

PLACED = "position IS NOT NULL"
ENDS = "type != 'approval.requested'"
RUN_ENDS = f"run_id IS NOT NULL AND {ENDS}"


def upgrade() -> None:
    _drop()
    _create("ix_completion_events_position", ["position"], PLACED, unique=True)
    _create("ix_completion_events_organization_id_position", ["organization_id", "position"], PLACED)
    _create("uq_completion_events_run_end", ["run_id", "type"], RUN_ENDS, unique=True)


def downgrade() -> None:
    _drop()
    _create("ix_completion_events_position", ["position"], unique=True)
    _create("ix_completion_events_organization_id_position", ["organization_id", "position"])
    _create("uq_completion_events_run_end", ["run_id", "type"], ENDS, unique=True)


def _drop() -> None:
    for name in (
        "ix_completion_events_position",
        "ix_completion_events_organization_id_position",
        "uq_completion_events_run_end",
    ):
        op.drop_index(name, "completion_events")


def _create(name: str, columns: list[str], where: str | None = None, *, unique: bool = False) -> None:
    kept = None if where is None else sa.text(where)
    op.create_index(name, "completion_events", columns, unique=unique, sqlite_where=kept, postgresql_where=kept)
