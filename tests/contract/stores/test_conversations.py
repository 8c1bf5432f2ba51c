from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import ConversationNotFound, SessionNotFound
from app.domain.identifiers import new_client_session_id
from app.domain.models.conversations import (
    Caller,
    ClientSession,
    Conversation,
    ConversationFilter,
    ForkPoint,
    NewConversation,
    Share,
)
from app.infrastructure.persistence.client_sessions import SqlClientSessionStore
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.runtime_memory import SqlRuntimeMemoryStore
from tests.contract.stores.rows import (
    ACME,
    ANNA,
    BERT,
    NOON,
    OTHER_ANNA,
    STRANGERS,
    counts,
    remember,
    run_with_everything,
    say,
)


@pytest.fixture
def store(engine: AsyncEngine) -> SqlConversationStore:
    return SqlConversationStore(engine)


async def opened(store: SqlConversationStore, caller: Caller = ANNA, provider_id: str | None = None) -> Conversation:
    return await store.create(caller, agent="helper", provider="openai", provider_conversation_id=provider_id)


async def test_a_new_conversation_is_empty_and_keyed_by_its_own_id(store: SqlConversationStore) -> None:
    before = datetime.now(UTC)
    made = await opened(store)
    assert made.sdk_session_id == f"acme:{made.id}"
    assert (made.title, made.last_agent, dict(made.metadata)) == (None, None, {})
    assert (made.run_count, made.message_count) == (0, 0)
    assert before - timedelta(seconds=1) <= made.created_at <= datetime.now(UTC)
    assert await store.get(ANNA, made.id) == made
    assert list(await store.messages(ANNA, made.id)) == []
    assert list(await store.items(ANNA, made.id)) == []


async def test_the_providers_id_keys_the_history_where_there_is_one(store: SqlConversationStore) -> None:
    made = await opened(store, provider_id="conv_at_openai")
    assert (made.provider_conversation_id, made.sdk_session_id) == ("conv_at_openai", "acme:conv_at_openai")


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_nothing_of_a_conversation_is_visible_to_strangers(
    store: SqlConversationStore, engine: AsyncEngine, stranger: Caller
) -> None:
    made = await opened(store)
    await say(engine, made, "a secret")
    await remember(engine, made, {"role": "user", "content": "a secret"})
    before = await counts(engine)
    with pytest.raises(ConversationNotFound):
        await store.get(stranger, made.id)
    with pytest.raises(ConversationNotFound):
        await store.messages(stranger, made.id)
    with pytest.raises(ConversationNotFound):
        await store.items(stranger, made.id)
    share = Share("share_1", made.id, NOON, NOON + timedelta(days=1))
    for call in (
        store.delete(stranger, made.id),
        store.update(stranger, made.id, {"title": "mine"}),
        store.item_page(stranger, made.id, limit=1, after=None, oldest_first=True),
        store.item(stranger, made.id, "msg_0000000000000001"),
        store.add_items(stranger, made.id, [{"role": "user", "content": "x"}]),
        store.delete_item(stranger, made.id, "msg_0000000000000001"),
        store.fork(stranger, made.id, ForkPoint()),
        store.is_last_run(stranger, made.id, "run_1"),
        store.share(stranger, made.id, share, "hash"),
        store.shares(stranger, made.id, limit=1, after=None, now=NOON),
        store.unshare(stranger, made.id, "share_1"),
    ):
        with pytest.raises(ConversationNotFound):
            await call
    assert await store.list(stranger, limit=10, after=None) == ([], False)
    assert list(await store.search(stranger, "secret", 10)) == []
    assert await counts(engine) == before


async def test_the_organization_as_a_whole_sees_every_users(store: SqlConversationStore, engine: AsyncEngine) -> None:
    of_anna, of_bert = await opened(store), await opened(store, BERT)
    await opened(store, OTHER_ANNA)
    await say(engine, of_anna, "hello")
    found, more = await store.list(ACME, limit=10, after=None)
    assert {one.id for one in found} == {of_anna.id, of_bert.id}
    assert not more
    assert [hit.conversation_id for hit in await store.search(ACME, "hello", 10)] == [of_anna.id]


async def test_pages_go_from_new_to_old_without_gaps(store: SqlConversationStore) -> None:
    made = sorted([(await opened(store)).id for _ in range(5)], reverse=True)
    await opened(store, BERT)
    first, more = await store.list(ANNA, limit=2, after=None)
    second, more_still = await store.list(ANNA, limit=2, after=first[-1].id)
    last, end = await store.list(ANNA, limit=2, after=second[-1].id)
    assert [one.id for one in (*first, *second, *last)] == made
    assert (more, more_still, end) == (True, True, False)
    assert await store.list(ANNA, limit=5, after=None) == ([*first, *second, *last], False)


async def test_messages_are_read_in_pages(store: SqlConversationStore, engine: AsyncEngine) -> None:
    made = await opened(store)
    await say(engine, made, "one", "two", "three")
    assert [m.text for m in await store.messages(ANNA, made.id)] == ["one", "two", "three"]
    page = await store.messages(ANNA, made.id, limit=1, after=1)
    assert [(m.position, m.role, m.text, m.agent) for m in page] == [(2, "assistant", "two", "helper")]
    assert page[0].created_at == NOON + timedelta(seconds=2)
    assert list(await store.messages(ANNA, made.id, after=3)) == []
    assert list(await store.messages(ANNA, made.id, limit=0)) == []


async def test_items_are_read_in_pages_and_survive_nul_and_lone_surrogates(
    store: SqlConversationStore, engine: AsyncEngine
) -> None:
    made = await opened(store)
    items = [{"role": "user", "content": text} for text in ("nul \x00", "half \ud83d", "naïve 😀")]
    await remember(engine, made, items[0], "not json", items[1], "[]", items[2])
    assert list(await store.items(ANNA, made.id)) == items
    assert list(await store.items(ANNA, made.id, limit=2, after=1)) == [items[1]]
    assert list(await store.items(ANNA, made.id, after=5)) == []
    with pytest.raises(ConversationNotFound):
        await store.items(BERT, made.id, after=5)


@pytest.mark.parametrize("bad", ["", "conv_nope", "nul\x00", "half\ud83d", "x" * 1000])
async def test_ids_that_cannot_exist_are_not_found(store: SqlConversationStore, bad: str) -> None:
    await opened(store)
    for method in (store.get, store.messages, store.items, store.delete):
        with pytest.raises(ConversationNotFound):
            await method(ANNA, bad)


async def test_an_after_that_cannot_exist_ends_the_list(store: SqlConversationStore) -> None:
    await opened(store)
    assert await store.list(ANNA, limit=1, after="conv_\x00") == ((), False)


async def test_deleting_leaves_no_row_but_the_bill(store: SqlConversationStore, engine: AsyncEngine) -> None:
    empty = await counts(engine)
    made = await opened(store)
    await say(engine, made, "hello", "hi")
    await remember(engine, made, {"role": "user", "content": "hello"})
    await run_with_everything(engine, made)
    sessions = SqlClientSessionStore(engine)
    await sessions.add(ClientSession(new_client_session_id(), ANNA, None, made.id, NOON))
    await store.share(ANNA, made.id, Share("share_1", made.id, NOON, NOON + timedelta(days=1)), "hash")
    full = await counts(engine)
    assert all(full[table] > empty[table] for table in full), full

    await store.delete(ANNA, made.id)
    assert await counts(engine) == empty | {"agent_run_usage": 1, "completion_events": 1}
    with pytest.raises(ConversationNotFound):
        await store.get(ANNA, made.id)


async def test_deleting_touches_no_other_conversation(store: SqlConversationStore, engine: AsyncEngine) -> None:
    kept, gone = await opened(store), await opened(store)
    sessions = SqlClientSessionStore(engine, cached=0)
    for one in (kept, gone):
        await say(engine, one, "hello")
        await remember(engine, one, {"role": "user", "content": "hello"})
        await run_with_everything(engine, one)
        await sessions.add(ClientSession(f"sess_{one.id}", ANNA, None, one.id, NOON))
        await store.share(ANNA, one.id, Share(f"share_{one.id}", one.id, NOON, NOON + timedelta(days=1)), one.id)
    await store.delete(ACME, gone.id)
    left = await counts(engine)
    assert left.pop("agent_run_usage") == left.pop("completion_events") == 2
    assert set(left.values()) == {1}
    assert len(await store.items(ANNA, kept.id)) == 1
    assert (await sessions.get(f"sess_{kept.id}")).conversation_id == kept.id
    with pytest.raises(SessionNotFound):
        await sessions.get(f"sess_{gone.id}")


async def test_memories_are_no_conversations(store: SqlConversationStore, engine: AsyncEngine) -> None:
    memory = await SqlRuntimeMemoryStore(engine).create(ANNA)
    for method in (store.get, store.messages, store.items, store.delete):
        with pytest.raises(ConversationNotFound):
            await method(ANNA, memory)
    assert await store.list(ACME, limit=10, after=None) == ([], False)


async def test_lists_are_filtered_and_turned_round(store: SqlConversationStore) -> None:
    of_anna, of_bert = await opened(store), await opened(store, BERT)
    other = await store.create(ANNA, agent="coder", provider="openai", provider_conversation_id=None)

    async def ids(caller: Caller, **query: Any) -> list[str]:
        return [one.id for one in (await store.list(caller, **{"limit": 9, "after": None, **query}))[0]]

    assert await ids(ACME, only=ConversationFilter(user_id="bert")) == [of_bert.id]
    assert await ids(ANNA, only=ConversationFilter(user_id="bert")) == []
    assert await ids(ANNA, only=ConversationFilter(agent="coder")) == [other.id]
    assert await ids(ANNA, oldest_first=True) == sorted([of_anna.id, other.id])
    assert await ids(ANNA, oldest_first=True, after=min(of_anna.id, other.id)) == [max(of_anna.id, other.id)]
    for odd in (ConversationFilter(agent="nul\x00"), ConversationFilter(user_id="half\ud83d")):
        assert await ids(ACME, only=odd) == []


async def test_title_and_metadata_are_set_apart(store: SqlConversationStore) -> None:
    made = await store.open(ANNA, NewConversation("openai", "helper", "First", {"a": "nul \x00"}))
    assert (made.title, made.agent, dict(made.metadata)) == ("First", "helper", {"a": "nul \x00"})
    renamed = await store.update(ANNA, made.id, {"title": "Second"})
    assert (renamed.title, dict(renamed.metadata)) == ("Second", {"a": "nul \x00"})
    assert renamed.updated_at >= made.updated_at
    emptied = await store.update(ACME, made.id, {"metadata": {}, "title": None})
    assert (emptied.title, dict(emptied.metadata)) == (None, {})
    assert await store.get(ANNA, made.id) == emptied
    with pytest.raises(ConversationNotFound):
        await store.update(ANNA, "conv_\x00", {"title": "x"})
