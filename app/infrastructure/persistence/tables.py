"""The tables, as the migrations make them; a test compares the two."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from app.infrastructure.persistence import json_text

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING)

RowId = BigInteger().with_variant(Integer(), "sqlite")
"""A surrogate key; SQLite counts up by itself only for plain INTEGER."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite keeps no zone, so it is stripped and put back there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn a value into what the database keeps."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn what the database keeps into a value."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonText(TypeDecorator[Any]):
    """JSON kept as text: it survives NUL and lone surrogates, which PostgreSQL's jsonb refuses."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Turn a value into what the database keeps."""
        return None if value is None else json_text.encode(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Turn what the database keeps into a value."""
        return None if value is None else json_text.decode(value)


class Money(TypeDecorator[Decimal]):
    """An exact decimal; SQLite has none, so it is text there and never passes through a float."""

    impl = Numeric(20, 10)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Return the type that keeps the digits."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(32))
        return dialect.type_descriptor(Numeric(20, 10))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Turn a value into what the database keeps."""
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Turn what the database keeps into a value."""
        return None if value is None else Decimal(value)


def _timestamp(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, UtcDateTime, nullable=nullable)


conversations = Table(
    "agent_conversations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("user_id", String(255)),
    Column("agent", String(64)),
    Column("last_agent", String(64)),
    Column("title", String(255)),
    Column("metadata", JsonText, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("provider", String(32), nullable=False),
    Column("provider_conversation_id", String(128)),
    Column("sdk_session_id", String(255)),
    Column("session_cursor", String(128)),
    Column("last_session_sync_at", UtcDateTime),
    Column("memory", JsonText),
    Column("run_count", Integer, nullable=False, server_default=text("0")),
    Column("message_count", Integer, nullable=False, server_default=text("0")),
    _timestamp("created_at"),
    _timestamp("updated_at"),
    Column("thread_key", String(64)),
    # True: nothing of it is to be kept when its run has ended; null: it is kept.
    Column("stateless", Boolean),
    UniqueConstraint("sdk_session_id"),
    Index(None, "organization_id", "user_id", "id"),
    Index(
        "uq_agent_conversations_thread_key",
        "thread_key",
        unique=True,
        sqlite_where=text("thread_key IS NOT NULL"),
        postgresql_where=text("thread_key IS NOT NULL"),
    ),
    Index(
        "ix_agent_conversations_stateless",
        "created_at",
        sqlite_where=text("stateless IS NOT NULL"),
        postgresql_where=text("stateless IS NOT NULL"),
    ),
)

messages = Table(
    "agent_messages",
    metadata,
    Column("conversation_id", ForeignKey("agent_conversations.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("role", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("run_id", String(64)),
    Column("agent", String(64)),
    _timestamp("created_at"),
)

# The two tables of the SDK's own SQLAlchemySession, column for column, so that either side reads the other's rows.
sdk_sessions = Table(
    "sdk_agent_sessions",
    metadata,
    Column("session_id", String(255), primary_key=True),
    Column("created_at", DateTime(timezone=False), server_default=text("CURRENT_TIMESTAMP"), nullable=False),
    Column("updated_at", DateTime(timezone=False), server_default=text("CURRENT_TIMESTAMP"), nullable=False),
)

sdk_messages = Table(
    "sdk_agent_session_messages",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("session_id", ForeignKey("sdk_agent_sessions.session_id", ondelete="CASCADE"), nullable=False),
    Column("message_data", Text, nullable=False),
    Column("created_at", DateTime(timezone=False), server_default=text("CURRENT_TIMESTAMP"), nullable=False),
    Index("idx_sdk_agent_session_messages_session_time", "session_id", "created_at"),
    sqlite_autoincrement=True,
)

client_sessions = Table(
    "client_sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("user_id", String(255)),
    Column("agent", String(64)),
    Column("conversation_id", String(64), nullable=False, index=True),
    _timestamp("created_at"),
)

runs = Table(
    "agent_runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("conversation_id", ForeignKey("agent_conversations.id", ondelete="CASCADE"), nullable=False),
    Column("organization_id", String(64), nullable=False),
    Column("user_id", String(255)),
    Column("agent", String(64), nullable=False),
    Column("last_agent", String(64)),
    Column("position", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("session_mode", String(16), nullable=False),
    Column("input", JsonText, nullable=False),
    Column("options", JsonText, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("history_items", Integer, nullable=False),
    Column("owner", String(64)),
    Column("fence", Integer, nullable=False),
    # Milliseconds of the database's clock, so that no two machines need agree on the time.
    Column("lease_until_ms", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("journal_version", Integer, nullable=False),
    Column("result", JsonText),
    Column("error_code", String(64)),
    Column("spans", JsonText),
    Column("trace_id", String(64)),
    Column("last_sequence", Integer, nullable=False, server_default=text("0")),
    Column("requests", Integer),
    Column("input_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("cost_usd", Money),
    _timestamp("created_at"),
    _timestamp("started_at", nullable=True),
    _timestamp("finished_at", nullable=True),
    Column("cancel_reason", String(16)),
    Column("idempotency_key", String(255)),
    Column("request_hash", String(64)),
    # Where the conversation stood when the run had ended: the highest row id in its history, the last of its messages.
    Column("history_end_id", BigInteger),
    Column("last_message", Integer),
    Column("project_id", String(64)),
    Column("api_key_id", String(64)),
    UniqueConstraint("conversation_id", "position"),
    Index(
        "uq_agent_runs_one_running_per_conversation",
        "conversation_id",
        unique=True,
        sqlite_where=text("status = 'running'"),
        postgresql_where=text("status = 'running'"),
    ),
    Index(
        "ix_agent_runs_unfinished",
        "conversation_id",
        "position",
        sqlite_where=text("status in ('queued', 'running', 'waiting')"),
        postgresql_where=text("status in ('queued', 'running', 'waiting')"),
    ),
    Index(None, "agent", "created_at"),
    Index(
        "uq_agent_runs_idempotency_key",
        "organization_id",
        "idempotency_key",
        unique=True,
        sqlite_where=text("idempotency_key IS NOT NULL"),
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index(None, "organization_id", "id"),
    Index(
        "ix_agent_runs_open",
        "organization_id",
        "id",
        sqlite_where=text("status in ('queued', 'running', 'waiting')"),
        postgresql_where=text("status in ('queued', 'running', 'waiting')"),
    ),
    Index(None, "finished_at"),
)

run_steps = Table(
    "agent_run_steps",
    metadata,
    Column("run_id", ForeignKey("agent_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", String(255), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("agent", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("request_hash", String(64)),
    Column("result", JsonText),
    Column("response_id", String(255)),
    _timestamp("started_at"),
    Column("duration_ms", Integer, nullable=False),
)

run_approvals = Table(
    "agent_run_approvals",
    metadata,
    Column("run_id", ForeignKey("agent_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", String(255), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("call_id", String(255), nullable=False),
    Column("tool", String(255), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("agent", String(255), nullable=False),
    Column("scope", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("always", Boolean, nullable=False),
    Column("message", Text),
    Column("decided_by", String(255)),
    _timestamp("requested_at"),
    _timestamp("expires_at", nullable=True),
    _timestamp("decided_at", nullable=True),
)

# A row holds the events first_sequence..sequence: one row an event would make a streamed answer hundreds of rows.
run_events = Table(
    "agent_run_events",
    metadata,
    Column("run_id", ForeignKey("agent_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("first_sequence", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("data", Text, nullable=False),
    _timestamp("created_at"),
)

# No foreign key: what was used stays on the bill when a conversation is deleted. A call to an upstream model that
# belongs to no run has an id of its own in the place of a run's, no conversation, and no agent.
run_usage = Table(
    "agent_run_usage",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("step", String(255), primary_key=True),
    Column("organization_id", String(64), nullable=False),
    Column("user_id", String(255)),
    Column("project_id", String(64)),
    Column("api_key_id", String(64)),
    Column("conversation_id", String(64)),
    Column("endpoint", String(32), nullable=False, server_default=text("'run'")),
    Column("agent", String(255), nullable=False),
    Column("model", String(255), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("accuracy", String(16), nullable=False),
    Column("requests", Integer, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_usd", Money),
    Column("price_version", String(64)),
    Column("response_id", String(255)),
    Column("http_status", Integer),
    Column("latency_ms", Integer, nullable=False),
    Column("first_token_ms", Integer),
    _timestamp("created_at"),
    Index(None, "organization_id", "created_at"),
)

_PLACED = text("position IS NOT NULL")

# No foreign key for the same reason: deliveries outlive the conversation.
completion_events = Table(
    "completion_events",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("type", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("organization_id", String(64), nullable=False),
    Column("user_id", String(255)),
    Column("session_id", String(255), nullable=False),
    # Null: it came from outside, and belongs to no run of ours.
    Column("run_id", String(64)),
    Column("outcome", String(32), nullable=False),
    Column("payload", JsonText, nullable=False),
    _timestamp("created_at"),
    # What reported it from outside; null: a run or the gateway.
    Column("source", String(64)),
    # Given after the commit, so that a reader who has seen one has seen all smaller ones; null: not yet.
    Column("position", BigInteger),
    # A run ends once, and may wait for a person many times.
    Index(
        "uq_completion_events_run_end",
        "run_id",
        "type",
        unique=True,
        sqlite_where=text("run_id IS NOT NULL AND type != 'approval.requested'"),
        postgresql_where=text("run_id IS NOT NULL AND type != 'approval.requested'"),
    ),
    Index(None, "organization_id", "created_at"),
    # A new event is in no index that it does not need yet: this is what taking it costs most.
    Index(None, "position", unique=True, sqlite_where=_PLACED, postgresql_where=_PLACED),
    Index(None, "organization_id", "position", sqlite_where=_PLACED, postgresql_where=_PLACED),
    Index(
        "ix_completion_events_unplaced",
        "created_at",
        "id",
        sqlite_where=text("position IS NULL"),
        postgresql_where=text("position IS NULL"),
    ),
)
