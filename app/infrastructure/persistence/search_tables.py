"""What finds messages by their words, as the migrations make it: an index of PostgreSQL, FTS5 on SQLite.

SQLite keeps the words in `agent_message_search`, by the numbers of `agent_message_search_rows`: VACUUM may give the
rows of `agent_messages` other numbers, as their key is none. Triggers keep both up to date, whoever writes; a revision
that makes `agent_messages` anew has to make them again. Where SQLite was built without FTS5 nothing of this exists.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Table, event, func, select, text

from app.infrastructure.persistence.tables import messages

SEARCH_TABLE: Final = "agent_message_search"
INDEXED_CHARS: Final = 100_000
"""How much of a message PostgreSQL looks at: a text with too many different words cannot be in an index, and then the
message could not be written at all."""

SQLITE_STATEMENTS: Final[Sequence[str]] = (
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
)
POSTGRESQL_STATEMENT: Final = """CREATE INDEX agent_message_search ON agent_messages
    USING gin (to_tsvector('simple', left(text, 100000)))"""


def has_fts5(connection: Connection) -> bool:
    """Tell whether this process's SQLite can search by words."""
    return bool(connection.scalar(select(func.sqlite_compileoption_used("ENABLE_FTS5"))))


@event.listens_for(messages, "after_create")
def _create(_table: Table, connection: Connection, **_: Any) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(POSTGRESQL_STATEMENT))
    elif has_fts5(connection):
        for statement in SQLITE_STATEMENTS:
            connection.exec_driver_sql(statement)
