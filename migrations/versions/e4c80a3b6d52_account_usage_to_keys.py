"""Account usage to projects and keys, and record calls that belong to no run.

Revision ID: e4c80a3b6d52
Revises: d3b7f5209c41
Create Date: 2026-11-21
"""

revision = "e4c80a3b6d52"
down_revision = "d3b7f5209c41"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
