"""The tables of keys and tenants, as the migrations make them."""

from sqlalchemy import Column, ForeignKey, Index, String, Table

from app.infrastructure.persistence.tables import JsonText, UtcDateTime, metadata

organizations = Table(
    "organizations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), ForeignKey(organizations.c.id), nullable=False),
    Column("name", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("archived_at", UtcDateTime),
    Index(None, "organization_id", "id"),
)

# Rows are never deleted: usage names the key that it was made with.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), ForeignKey(organizations.c.id), nullable=False),
    Column("project_id", String(64), ForeignKey(projects.c.id)),
    Column("user_id", String(255)),
    Column("name", String(255), nullable=False),
    Column("redacted", String(32), nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("scopes", JsonText, nullable=False),
    Column("agents", JsonText),
    Column("models", JsonText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    Index(None, "organization_id", "id"),
    Index(None, "project_id", "id"),
)
