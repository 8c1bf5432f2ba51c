"""The tables by which completion events reach their destinations, as the migrations make them."""

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, text

from app.infrastructure.persistence.tables import JsonText, UtcDateTime, metadata

_PENDING = text("state = 'pending'")
_DEAD = text("state = 'dead'")

completion_sequence = Table(
    "completion_sequence",
    metadata,
    # One row. Whoever gives events their positions holds its lock until the positions are committed.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last_position", BigInteger, nullable=False),
)

completion_destinations = Table(
    "completion_destinations",
    metadata,
    Column("name", String(128), primary_key=True),
    # Every event up to it has been looked at: it has a delivery, or the destination does not want it.
    Column("position", BigInteger, nullable=False),
    Column("lease_owner", String(64)),
    # By the database's clock, in milliseconds since 1970.
    Column("lease_until_ms", BigInteger, nullable=False),
    # Failures since the last success; 0 while it works. It is left alone until `resume_at_ms`.
    Column("failures", Integer, nullable=False),
    Column("resume_at_ms", BigInteger, nullable=False),
    Column("last_success_ms", BigInteger),
    Column("last_failure_ms", BigInteger),
    Column("last_error", String(500)),
    Column("created_at", UtcDateTime, nullable=False),
)

completion_deliveries = Table(
    "completion_deliveries",
    metadata,
    Column("destination", String(128), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("organization_id", String(64), nullable=False),
    # A digest of what must stay in order; null: no order is wanted.
    Column("ordering_key", String(64)),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    Column("first_failure_ms", BigInteger),
    Column("last_error", String(500)),
    # The latest attempts: when, how it ended, how long it took.
    Column("history", JsonText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    Index(None, "destination", "position"),
    Index(None, "event_id"),
    Index(
        "ix_completion_deliveries_pending",
        "destination",
        "position",
        sqlite_where=_PENDING,
        postgresql_where=_PENDING,
    ),
    Index(
        "ix_completion_deliveries_pending_key",
        "destination",
        "ordering_key",
        "position",
        sqlite_where=_PENDING,
        postgresql_where=_PENDING,
    ),
    # For counting them: there are few, and each look at the backlog would read every delivery.
    Index("ix_completion_deliveries_dead", "destination", sqlite_where=_DEAD, postgresql_where=_DEAD),
)

completion_spool_cursors = Table(
    "completion_spool_cursors",
    metadata,
    # The name of a spool's file; no two have the same, on whatever machine.
    Column("segment", String(64), primary_key=True),
    # Bytes of it whose events are recorded, or were put aside.
    Column("position", BigInteger, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    # What is signed with it.
    Column("purpose", String(64), primary_key=True),
    # 64 hex digits.
    Column("secret", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("url", String(2048), nullable=False),
    Column("event_types", JsonText, nullable=False),
    Column("secret", String(255), nullable=False),
    Column("previous_secret", String(255)),
    Column("previous_secret_until", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index(None, "organization_id", "id"),
)
