"""Add organizations, projects and hashed keys.

Revision ID: c2a4e61f8d10
Revises: b1d9c04e7a35
Create Date: 2026-11-21
"""

revision = "c2a4e61f8d10"
down_revision = "b1d9c04e7a35"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""


def downgrade() -> None:
    """Nothing yet."""
