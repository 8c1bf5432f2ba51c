"""Finding messages by their words: PostgreSQL's full text search, SQLite's FTS5, or, without either, by reading."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, column, func, literal_column, select, table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.models.conversations import Caller, MessageHit
from app.infrastructure.persistence.conversation_rows import ConversationPart, message_of
from app.infrastructure.persistence.engine import reading
from app.infrastructure.persistence.owned_rows import can_exist, of_caller
from app.infrastructure.persistence.search_tables import INDEXED_CHARS, SEARCH_TABLE
from app.infrastructure.persistence.tables import conversations, messages

MAX_HITS: Final = 100
MAX_QUERY_CHARS: Final = 1000
"""Characters of a query that are looked at."""
MAX_RANKED: Final = 2000
"""How many messages PostgreSQL ranks at most, the newest: for each of them it takes the text apart again."""
SNIPPET_CHARS: Final = 160

_CONFIGURATION: Final = literal_column("'simple'")
_fts = table(SEARCH_TABLE, column("rowid"), column("rank"), column(SEARCH_TABLE))
_fts_rows = table("agent_message_search_rows", column("id"), column("conversation_id"), column("position"))


class ConversationSearch(ConversationPart):
    """Messages by their words."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; whether its database has FTS5 is found out with the first search."""
        super().__init__(engine)
        self._by_words: bool | None = None if engine.dialect.name == "sqlite" else True

    async def search(self, caller: Caller, query: str, limit: int) -> Sequence[MessageHit]:
        """Return messages with all words, best first; see the port.

        What has no letter or digit (`%`, an emoji) is in no index: messages are read for it, after all other words.
        """
        words = list(dict.fromkeys(query[:MAX_QUERY_CHARS].split()))
        if not words or limit < 1 or not can_exist(query):
            return ()
        async with reading(self._engine) as connection:
            by_words = await self._has_words(connection)
            indexed = [word for word in words if by_words and any(map(str.isalnum, word))]
            read = (messages.c.text.icontains(word, autoescape=True) for word in words if word not in indexed)
            conditions = [*of_caller(caller, "chat"), *read]
            statement = _found(indexed, conditions, connection.dialect.name)
            rows = (await connection.execute(statement.limit(min(limit, MAX_HITS)))).all()
        return [
            MessageHit(row.conversation_id, row.title, message_of(row), snippet=snippet(row.text, words))
            for row in rows
        ]

    async def _has_words(self, connection: AsyncConnection) -> bool:
        if self._by_words is None:
            known = select(func.count()).select_from(table("sqlite_master")).where(column("name") == SEARCH_TABLE)
            self._by_words = bool((await connection.execute(known)).scalar_one())
        return self._by_words


def _found(words: Sequence[str], conditions: Sequence[ColumnElement[bool]], dialect: str) -> Select[Any]:
    """Return the statement for messages that begin words with all the words, best first, then newest first."""
    statement = (
        select(messages, conversations.c.title)
        .join(conversations, conversations.c.id == messages.c.conversation_id)
        .where(*conditions)
    )
    newest = (messages.c.created_at.desc(), messages.c.conversation_id.desc(), messages.c.position.desc())
    if not words:
        return statement.order_by(*newest)
    if dialect == "sqlite":
        # Each word is a quoted phrase, in which nothing has a meaning but the doubled quote; `*` makes it a beginning.
        asked = " ".join(f'"{word.replace(chr(34), chr(34) * 2)}"*' for word in words)
        numbered = and_(
            _fts_rows.c.conversation_id == messages.c.conversation_id, _fts_rows.c.position == messages.c.position
        )
        return (
            statement.join(_fts_rows, numbered)
            .join(_fts, _fts.c.rowid == _fts_rows.c.id)
            .where(_fts.c[SEARCH_TABLE].op("MATCH")(asked))
            .order_by(_fts.c.rank, *newest)
        )
    quoted = (word.replace("\\", "\\\\").replace("'", "''") for word in words)
    asked_of = func.to_tsquery(_CONFIGURATION, " & ".join(f"'{word}':*" for word in quoted))
    matching = statement.where(_vector(messages.c.text).op("@@")(asked_of)).order_by(*newest).limit(MAX_RANKED)
    found = matching.subquery()
    rank = func.ts_rank_cd(_vector(found.c.text), asked_of)
    return select(found).order_by(
        rank.desc(), found.c.created_at.desc(), found.c.conversation_id.desc(), found.c.position.desc()
    )


def _vector(text: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the words of a text, as the index has them."""
    return func.to_tsvector(_CONFIGURATION, func.left(text, literal_column(str(INDEXED_CHARS))))


def snippet(text: str, words: Sequence[str], most: int = SNIPPET_CHARS) -> str:
    """Return the text around the first of the words that is in it, on one line and at most `most` characters long."""
    folded = text.lower()
    places = [place for word in words if (place := folded.find(word.lower())) >= 0]
    first = max(0, min(places, default=0) - most // 4)
    shown = " ".join(text[first : first + most].split())
    return f"{'…' if first else ''}{shown}{'…' if first + most < len(text) else ''}"
