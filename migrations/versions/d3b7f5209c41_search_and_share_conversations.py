"""Let conversations be searched by words, forked and shared.

PostgreSQL builds its index without stopping writers. Over very many messages that may take longer than a connection
waits: build it by hand then, before the upgrade, and it is found here.

    CREATE INDEX CONCURRENTLY agent_message_search ON agent_messages
        USING gin (to_tsvector('simple', left(text, 100000)));

SQLite keeps the words in a table of its FTS5 module, kept up to date by triggers. Where it was built without FTS5
nothing of that is made, and searches read the messages themselves.

Where a run has ended in its conversation's history is recorded from now on; of earlier runs it stays unknown.

Revision ID: d3b7f5209c41
Revises: c2a4e61f8d10
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import context, op

revision = "d3b7f5209c41"
down_revision = "c2a4e61f8d10"
branch_labels = None
depends_on = None

INDEX = "agent_message_search ON agent_messages USING gin (to_tsvector('simple', left(text, 100000)))"
BROKEN = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('agent_message_search') AND NOT indisvalid"

FTS5 = (
    """CREATE TABLE agent_message_search_rows (id INTEGER NOT NULL, conversation_id VARCHAR(64) NOT NULL,
    position INTEGER NOT NULL, CONSTRAINT pk_agent_message_search_rows PRIMARY KEY (id),
    CONSTRAINT uq_agent_message_search_rows_conversation_id_position UNIQUE (conversation_id, position))""",
    """CREATE VIEW agent_message_search_texts AS SELECT rows.id AS id, messages.text AS text
    FROM agent_message_search_rows AS rows JOIN agent_messages AS messages
    ON messages.conversation_id = rows.conversation_id AND messages.position = rows.position""",
    """CREATE VIRTUAL TABLE agent_message_search USING fts5(text, content='agent_message_search_texts',
    content_rowid='id', tokenize='unicode61 remove_diacritics 0')""",
    """CREATE TRIGGER agent_message_search_insert AFTER INSERT ON agent_messages BEGIN
    INSERT INTO agent_message_search_rows (conversation_id, position) VALUES (new.conversation_id, new.position);
    INSERT INTO agent_message_search (rowid, text) SELECT id, new.text FROM agent_message_search_rows
    WHERE conversation_id = new.conversation_id AND position = new.position; END""",
    """CREATE TRIGGER agent_message_search_delete AFTER DELETE ON agent_messages BEGIN
    INSERT INTO agent_message_search (agent_message_search, rowid, text)
    SELECT 'delete', id, old.text FROM agent_message_search_rows
    WHERE conversation_id = old.conversation_id AND position = old.position;
    DELETE FROM agent_message_search_rows
    WHERE conversation_id = old.conversation_id AND position = old.position; END""",
    """CREATE TRIGGER agent_message_search_update AFTER UPDATE OF conversation_id, position, text
    ON agent_messages BEGIN
    INSERT INTO agent_message_search (agent_message_search, rowid, text)
    SELECT 'delete', id, old.text FROM agent_message_search_rows
    WHERE conversation_id = old.conversation_id AND position = old.position;
    UPDATE agent_message_search_rows SET conversation_id = new.conversation_id, position = new.position
    WHERE conversation_id = old.conversation_id AND position = old.position;
    INSERT INTO agent_message_search (rowid, text) SELECT id, new.text FROM agent_message_search_rows
    WHERE conversation_id = new.conversation_id AND position = new.position; END""",
    """INSERT INTO agent_message_search_rows (conversation_id, position)
    SELECT conversation_id, position FROM agent_messages""",
    "INSERT INTO agent_message_search (agent_message_search) VALUES ('rebuild')",
)


def upgrade() -> None:
    # First, as it is no part of the transaction: what follows is whole or absent, and this may be there already.
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            if not context.is_offline_mode() and op.get_bind().scalar(sa.text(BROKEN)):
                op.execute("DROP INDEX CONCURRENTLY agent_message_search")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX}")
    elif op.get_bind().scalar(sa.select(sa.func.sqlite_compileoption_used("ENABLE_FTS5"))):
        for statement in FTS5:
            op.get_bind().exec_driver_sql(statement)
    op.add_column("agent_runs", sa.Column("history_end_id", sa.BigInteger))
    op.add_column("agent_runs", sa.Column("last_message", sa.Integer))
    op.create_table(
        "conversation_shares",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("conversation_id", sa.String(64), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("last_message", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation_shares")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_conversation_shares_token_hash")),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["agent_conversations.id"],
            name=op.f("fk_conversation_shares_conversation_id_agent_conversations"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_conversation_shares_conversation_id_id"), "conversation_shares", ["conversation_id", "id"])


def downgrade() -> None:
    op.drop_table("conversation_shares")
    op.drop_column("agent_runs", "last_message")
    op.drop_column("agent_runs", "history_end_id")
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS agent_message_search")
        return
    for kind, name in (
        ("TRIGGER", "agent_message_search_update"),
        ("TRIGGER", "agent_message_search_delete"),
        ("TRIGGER", "agent_message_search_insert"),
        ("TABLE", "agent_message_search"),
        ("VIEW", "agent_message_search_texts"),
        ("TABLE", "agent_message_search_rows"),
    ):
        op.execute(f"DROP {kind} IF EXISTS {name}")
