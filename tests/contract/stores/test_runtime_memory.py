import asyncio
from datetime import datetime, timedelta

import pytest
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import SessionNotFound
from app.domain.models.conversations import Caller
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.runtime_memory import SqlRuntimeMemoryStore
from app.infrastructure.persistence.tables import sdk_messages, sdk_sessions
from tests.contract.stores.rows import ACME, ANNA, STRANGERS, counts

HELLO = {"role": "user", "content": "hello"}


@pytest.fixture
def store(engine: AsyncEngine) -> SqlRuntimeMemoryStore:
    return SqlRuntimeMemoryStore(engine)


def sdk_session(engine: AsyncEngine, memory: str) -> SQLAlchemySession:
    return SQLAlchemySession(
        f"acme:{memory}",
        engine=engine,
        sessions_table="sdk_agent_sessions",
        messages_table="sdk_agent_session_messages",
    )


async def test_the_two_compartments_stay_apart(store: SqlRuntimeMemoryStore) -> None:
    memory = await store.create(ANNA)
    assert memory.startswith("conv_")
    empty = await store.get(ANNA, memory)
    assert (empty.messages, dict(empty.metadata)) == ((), {})
    await store.add_messages(ANNA, memory, [HELLO])
    await store.set_metadata(ANNA, memory, {"model": "m", "nested": {"a": [1, None]}})
    await store.add_messages(ANNA, memory, [{"role": "assistant", "content": "hi"}, HELLO])
    await store.set_metadata(ANNA, memory, {"model": "n"})
    await store.add_messages(ANNA, memory, [])
    got = await store.get(ACME, memory)
    assert got.messages == (HELLO, {"role": "assistant", "content": "hi"}, HELLO)
    assert got.metadata == {"model": "n", "nested": {"a": [1, None]}} == await store.metadata(ANNA, memory)


async def test_what_is_given_out_is_a_copy(store: SqlRuntimeMemoryStore) -> None:
    memory = await store.create(ANNA)
    await store.add_messages(ANNA, memory, [dict(HELLO)])
    got = await store.get(ANNA, memory)
    got.messages[0]["content"] = "changed"
    assert (await store.get(ANNA, memory)).messages == (HELLO,)


@pytest.mark.parametrize("bad", ["nul \x00", "half \ud83d", "naïve 😀", "\\u0000", ""])
async def test_any_text_survives(store: SqlRuntimeMemoryStore, bad: str) -> None:
    memory = await store.create(ANNA)
    await store.add_messages(ANNA, memory, [{"content": bad}])
    await store.set_metadata(ANNA, memory, {bad: bad})
    got = await store.get(ANNA, memory)
    assert got.messages == ({"content": bad},)
    assert got.metadata == {bad: bad}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_strangers_find_nothing_and_change_nothing(
    store: SqlRuntimeMemoryStore, engine: AsyncEngine, stranger: Caller
) -> None:
    memory = await store.create(ANNA)
    before = await counts(engine)
    for call in (
        store.get(stranger, memory),
        store.metadata(stranger, memory),
        store.add_messages(stranger, memory, [HELLO]),
        store.add_messages(stranger, memory, []),
        store.set_metadata(stranger, memory, {"a": 1}),
        store.delete(stranger, memory),
    ):
        with pytest.raises(SessionNotFound):
            await call
    assert await counts(engine) == before
    assert await store.metadata(ANNA, memory) == {}


@pytest.mark.parametrize("bad", ["", "conv_nope", "nul\x00", "half\ud83d"])
async def test_unknown_ids_are_not_found(store: SqlRuntimeMemoryStore, bad: str) -> None:
    for call in (
        store.get(ANNA, bad),
        store.metadata(ANNA, bad),
        store.add_messages(ANNA, bad, [HELLO]),
        store.set_metadata(ANNA, bad, {}),
        store.delete(ANNA, bad),
    ):
        with pytest.raises(SessionNotFound):
            await call


async def test_conversations_are_no_memories(store: SqlRuntimeMemoryStore, engine: AsyncEngine) -> None:
    conversations = SqlConversationStore(engine)
    chat = await conversations.create(ANNA, agent=None, provider="openai", provider_conversation_id=None)
    for call in (store.get(ANNA, chat.id), store.set_metadata(ANNA, chat.id, {}), store.delete(ANNA, chat.id)):
        with pytest.raises(SessionNotFound):
            await call
    assert (await conversations.get(ANNA, chat.id)).metadata == {}


async def test_twenty_writers_lose_nothing(store: SqlRuntimeMemoryStore) -> None:
    memory = await store.create(ANNA)
    pairs = [[{"n": number, "part": part} for part in (1, 2)] for number in range(20)]
    await asyncio.gather(
        *(store.set_metadata(ANNA, memory, {f"key{number}": number}) for number in range(20)),
        *(store.add_messages(ANNA, memory, pair) for pair in pairs),
    )
    got = await store.get(ANNA, memory)
    assert got.metadata == {f"key{number}": number for number in range(20)}
    assert len(got.messages) == 40
    assert sorted((message["n"], message["part"]) for message in got.messages) == [
        (n, p) for n in range(20) for p in (1, 2)
    ]
    halves = [(got.messages[at], got.messages[at + 1]) for at in range(0, 40, 2)]
    assert all(first["n"] == second["n"] and first["part"] == 1 for first, second in halves)


async def test_the_time_of_a_message_never_steps_back(store: SqlRuntimeMemoryStore, engine: AsyncEngine) -> None:
    memory = await store.create(ANNA)
    await store.add_messages(ANNA, memory, [{"n": 1}])
    async with writing(engine) as connection:  # as if another machine's clock were an hour ahead
        stored = (await connection.execute(select(sdk_messages.c.created_at))).scalar_one()
        await connection.execute(update(sdk_messages).values(created_at=stored + timedelta(hours=1)))
    await store.add_messages(ANNA, memory, [{"n": 2}, {"n": 3}])
    async with reading(engine) as connection:
        times = (
            (await connection.execute(select(sdk_messages.c.created_at).order_by(sdk_messages.c.id))).scalars().all()
        )
    assert times == [stored + timedelta(hours=1)] * 3
    assert [message["n"] for message in (await store.get(ANNA, memory)).messages] == [1, 2, 3]
    assert [item["n"] for item in await sdk_session(engine, memory).get_items()] == [1, 2, 3]


async def test_times_have_the_form_that_the_sdk_writes(sqlite_engine: AsyncEngine) -> None:
    store = SqlRuntimeMemoryStore(sqlite_engine)
    memory = await store.create(ANNA)
    await store.add_messages(ANNA, memory, [HELLO])
    await store.add_messages(ANNA, memory, [HELLO])
    async with reading(sqlite_engine) as connection:
        stored = (await connection.execute(text("SELECT created_at FROM sdk_agent_session_messages"))).scalars().all()
        touched = (await connection.execute(text("SELECT updated_at FROM sdk_agent_sessions"))).scalars().all()
    for value in (*stored, *touched):
        assert datetime.strptime(value, "%Y-%m-%d %H:%M:%S")  # as its CURRENT_TIMESTAMP


async def test_the_sdk_and_a_memory_read_each_others_rows(store: SqlRuntimeMemoryStore, engine: AsyncEngine) -> None:
    memory = await store.create(ANNA)
    await store.add_messages(ANNA, memory, [{"n": 1}])
    session = sdk_session(engine, memory)
    await session.add_items([{"n": 2}])  # type: ignore[list-item]
    await store.add_messages(ANNA, memory, [{"n": 3}])
    assert [message["n"] for message in (await store.get(ANNA, memory)).messages] == [1, 2, 3]
    assert [item["n"] for item in await session.get_items()] == [1, 2, 3]


async def test_a_session_that_someone_cleared_is_made_again(store: SqlRuntimeMemoryStore, engine: AsyncEngine) -> None:
    memory = await store.create(ANNA)
    await store.add_messages(ANNA, memory, [HELLO])
    async with writing(engine) as connection:
        await connection.execute(delete(sdk_sessions))
    assert (await store.get(ANNA, memory)).messages == ()
    await store.add_messages(ANNA, memory, [HELLO])
    assert (await store.get(ANNA, memory)).messages == (HELLO,)


async def test_a_reset_leaves_no_row(store: SqlRuntimeMemoryStore, engine: AsyncEngine) -> None:
    empty = await counts(engine)
    memory = await store.create(ANNA)
    await store.add_messages(ANNA, memory, [HELLO])
    await store.set_metadata(ANNA, memory, {"a": 1})
    await store.delete(ANNA, memory)
    assert await counts(engine) == empty
    with pytest.raises(SessionNotFound):
        await store.delete(ANNA, memory)


async def test_a_reset_amid_writers_leaves_no_row(store: SqlRuntimeMemoryStore, engine: AsyncEngine) -> None:
    empty = await counts(engine)
    memory = await store.create(ANNA)
    writes = [store.add_messages(ANNA, memory, [HELLO]) for _ in range(8)]
    writes += [store.set_metadata(ANNA, memory, {"a": number}) for number in range(4)]
    results = await asyncio.gather(*writes[:6], store.delete(ANNA, memory), *writes[6:], return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), SessionNotFound}
    assert await counts(engine) == empty
