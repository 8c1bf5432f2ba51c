"""Let conversations be searched by words, forked and shared.

Revision ID: d3b7f5209c41
Revises: c2a4e61f8d10
Create Date: 2026-11-21
"""

revision = "d3b7f5209c41"
down_revision = "c2a4e61f8d10"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
