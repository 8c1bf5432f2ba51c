"""The revision that lets messages be searched: what is there already is found, and the models make the same."""

from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.tables import metadata
from tests.contract.stores.rows import ANNA, say
from tests.migrations.commands import KEYS, SEARCH, down, up

MADE = {
    "sqlite": "SELECT type, name, sql FROM sqlite_master WHERE name LIKE 'agent_message_search%' ORDER BY name",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE indexname = 'agent_message_search'",
}
CONVERSATION = (
    "INSERT INTO agent_conversations (id, organization_id, user_id, metadata, kind, provider, created_at, updated_at)"
    " VALUES ('conv_1', 'acme', 'anna', '{}', 'chat', 'openai', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
)
MESSAGE = (
    "INSERT INTO agent_messages (conversation_id, position, role, text, created_at)"
    " VALUES ('conv_1', 1, 'user', 'an old needle', CURRENT_TIMESTAMP)"
)


async def _rows(engine: AsyncEngine, statement: str) -> list[tuple[Any, ...]]:
    async with reading(engine) as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def _execute(engine: AsyncEngine, *statements: str) -> None:
    async with writing(engine) as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def _found(engine: AsyncEngine, query: str) -> list[str]:
    return [hit.message.text for hit in await SqlConversationStore(engine).search(ANNA, query, 10)]


async def test_messages_of_the_release_before_are_found(engine: AsyncEngine) -> None:
    await up(engine, KEYS)
    await _execute(engine, CONVERSATION, MESSAGE)
    await up(engine)
    assert await _found(engine, "needle") == ["an old needle"]
    made = await SqlConversationStore(engine).create(ANNA, agent=None, provider="x", provider_conversation_id=None)
    await say(engine, made, "a new needle")
    assert sorted(await _found(engine, "needle")) == ["a new needle", "an old needle"]
    await down(engine, KEYS)
    await _execute(engine, "UPDATE agent_messages SET text = 'an altered needle' WHERE position = 1")
    await up(engine)
    assert await _found(engine, "altered") == ["an altered needle"] * 2


async def test_the_models_make_the_same(engine: AsyncEngine) -> None:
    await up(engine)
    migrated = await _rows(engine, MADE[engine.dialect.name])
    assert migrated
    await down(engine)
    assert await _rows(engine, MADE[engine.dialect.name]) == []
    async with writing(engine) as connection:
        await connection.run_sync(metadata.create_all)
    assert await _rows(engine, MADE[engine.dialect.name]) == migrated


async def test_an_index_that_was_built_before_is_kept_and_a_broken_one_is_not(postgresql_engine: AsyncEngine) -> None:
    engine = postgresql_engine
    index = "agent_message_search ON agent_messages USING gin (to_tsvector('simple', left(text, 100000)))"
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('agent_message_search')"
    await up(engine, KEYS)
    await _execute(engine, f"CREATE INDEX {index}")
    await up(engine, SEARCH)
    assert await _rows(engine, valid) == [(True,)]
    await down(engine, KEYS)
    await _execute(
        engine,
        f"CREATE INDEX {index}",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('agent_message_search')",
    )
    await up(engine, SEARCH)
    assert await _rows(engine, valid) == [(True,)]


async def test_a_sqlite_without_fts5_has_no_words(sqlite_engine: AsyncEngine) -> None:
    """Searches read the messages then."""

    @event.listens_for(sqlite_engine.sync_engine, "connect")
    def _without_fts5(connection: Any, _record: Any) -> None:
        connection.create_function("sqlite_compileoption_used", 1, lambda _name: 0)

    await up(sqlite_engine)
    assert await _rows(sqlite_engine, MADE["sqlite"]) == []
    await _execute(sqlite_engine, CONVERSATION, MESSAGE)
    assert await _found(sqlite_engine, "need OLD") == ["an old needle"]
    await down(sqlite_engine, KEYS)
