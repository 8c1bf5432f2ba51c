"""Conversations under the names of other protocols' clients."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.conversations import Caller
from app.domain.models.threads import Thread
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.threads import SqlThreadStore
from tests.contract.stores.rows import ACME, ANNA, STRANGERS, counts

KEY = "a" * 64


@pytest.fixture
def store(engine: AsyncEngine) -> SqlThreadStore:
    return SqlThreadStore(engine)


async def opened(
    store: SqlThreadStore, caller: Caller = ANNA, key: str = KEY, provider_id: str | None = None
) -> Thread:
    return await store.open(caller, key, agent="helper", provider="openai", provider_conversation_id=provider_id)


async def test_what_was_opened_is_found(store: SqlThreadStore, engine: AsyncEngine) -> None:
    assert await store.find(ANNA, KEY) is None
    thread = await opened(store)
    assert thread.agent == "helper"
    assert await store.find(ANNA, KEY) == thread == await store.named(ANNA, thread.conversation_id)
    conversation = await SqlConversationStore(engine).get(ANNA, thread.conversation_id)
    assert (conversation.agent, conversation.run_count, conversation.sdk_session_id) == (
        "helper",
        0,
        f"acme:{thread.conversation_id}",
    )


async def test_nobody_else_finds_it(store: SqlThreadStore) -> None:
    thread = await opened(store)
    for stranger in STRANGERS:
        assert await store.find(stranger, KEY) is None
        assert await store.named(stranger, thread.conversation_id) is None
    assert await store.find(ACME, KEY) == thread  # the organization as a whole


async def test_two_who_open_it_at_once_have_the_same(store: SqlThreadStore, engine: AsyncEngine) -> None:
    first, second, third = await asyncio.gather(*(opened(store) for _ in range(3)))
    assert first == second == third
    assert (await counts(engine))["agent_conversations"] == 1


async def test_a_deleted_one_can_be_opened_anew(store: SqlThreadStore, engine: AsyncEngine) -> None:
    thread = await opened(store)
    await SqlConversationStore(engine).delete(ANNA, thread.conversation_id)
    assert await store.find(ANNA, KEY) is None
    assert (await opened(store)).conversation_id != thread.conversation_id


async def test_the_providers_conversation_keeps_the_history(store: SqlThreadStore, engine: AsyncEngine) -> None:
    thread = await opened(store, provider_id="conv_upstream")
    conversation = await SqlConversationStore(engine).get(ANNA, thread.conversation_id)
    assert (conversation.provider_conversation_id, conversation.sdk_session_id) == (
        "conv_upstream",
        "acme:conv_upstream",
    )


async def test_no_conversation_has_an_impossible_id(store: SqlThreadStore) -> None:
    for conversation_id in ("", "conv_\x00", "\ud83d"):
        assert await store.named(ANNA, conversation_id) is None
