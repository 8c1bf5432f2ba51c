"""Items of conversations on both databases: pages in the order of reading, whoever wrote, and changes that fit."""

import asyncio
from typing import Any

import pytest
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import InvalidInput, RunConflict
from app.domain.models.conversations import Conversation, ConversationItem, Item, NewConversation
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.tables import runs
from tests.contract.stores.rows import ANNA, insert_all, remember, run_row

LONG = "msg_0123456789abcdef0123456789"


@pytest.fixture
def store(engine: AsyncEngine) -> SqlConversationStore:
    return SqlConversationStore(engine)


def said(text: str, role: str = "user") -> Item:
    return {"role": role, "content": text}


def call(name: str) -> Item:
    return {"type": "function_call", "call_id": name, "name": "t", "arguments": "{}"}


def output(name: str) -> Item:
    return {"type": "function_call_output", "call_id": name, "output": name}


async def opened(store: SqlConversationStore, *items: Item) -> Conversation:
    return await store.open(ANNA, NewConversation("openai", items=items))


async def paged(store: SqlConversationStore, made: Conversation, limit: int, *, oldest_first: bool) -> list[Item]:
    items: list[ConversationItem] = []
    after, more = None, True
    while more:
        page, more = await store.item_page(ANNA, made.id, limit=limit, after=after, oldest_first=oldest_first)
        assert len(page) <= limit
        items += page
        after = page[-1].id if page else None
    return [entry.item for entry in items]


def sdk_session(engine: AsyncEngine, made: Conversation) -> SQLAlchemySession:
    return SQLAlchemySession(
        made.sdk_session_id,
        engine=engine,
        sessions_table="sdk_agent_sessions",
        messages_table="sdk_agent_session_messages",
    )


async def test_pages_hold_every_item_once(store: SqlConversationStore, engine: AsyncEngine) -> None:
    made = await opened(store, said("0"))
    sdk: Any = sdk_session(engine, made)
    for number in range(1, 6):
        if number % 2:
            await sdk.add_items([said(str(number))])
        else:
            await store.add_items(ANNA, made.id, [said(str(number))])
    expected = [said(str(number)) for number in range(6)]
    assert await sdk.get_items() == expected
    for limit in (1, 2, 5, 6, 100):
        assert await paged(store, made, limit, oldest_first=True) == expected
        assert await paged(store, made, limit, oldest_first=False) == expected[::-1]
    assert await sdk.pop_item() == expected[-1]
    assert await paged(store, made, 3, oldest_first=True) == expected[:-1]


async def test_rows_that_hold_no_item_are_passed_over(store: SqlConversationStore, engine: AsyncEngine) -> None:
    made = await store.create(ANNA, agent=None, provider="openai", provider_conversation_id=None)
    await remember(engine, made, "no json", said("a"), "[]", "3", "{", said("b"), "null")
    for limit in (1, 2, 9):
        assert await paged(store, made, limit, oldest_first=True) == [said("a"), said("b")]
        assert await paged(store, made, limit, oldest_first=False) == [said("b"), said("a")]


async def test_ids_are_stable_unique_and_found(store: SqlConversationStore, engine: AsyncEngine) -> None:
    made = await opened(store, said("a"), {**said("b", "assistant"), "type": "message", "id": LONG}, call("c"))
    # Written by others, an id may come twice; its text may hold what looks like one.
    await remember_more(engine, made, {**said("d"), "id": LONG}, said(f'"id":"{LONG}"'), {**said("e"), "id": "msg_1"})
    for limit in (1, 2, 3, 4, 6):
        ids: list[str] = []
        after, more = None, True
        while more:
            page, more = await store.item_page(ANNA, made.id, limit=limit, after=after, oldest_first=True)
            for entry in page:
                assert (await store.item(ANNA, made.id, entry.id)) is not None
            after = page[-1].id
            assert [known for known in ids if known == after] == []
            ids += [entry.id for entry in page]
        assert len(ids) == 6
    found = await store.item(ANNA, made.id, LONG)
    assert found is not None
    assert found.item["content"] == "b"
    assert await store.item(ANNA, made.id, "msg_1") is None
    other = await opened(store)
    for item_id in (ids[0], LONG):
        assert await store.item(ANNA, other.id, item_id) is None
    assert await store.item(ANNA, made.id, ids[0].replace("msg", "fc")) is None


async def remember_more(engine: AsyncEngine, made: Conversation, *items: Item) -> None:
    await sdk_session(engine, made).add_items(list(items))  # type: ignore[arg-type]


async def test_ids_of_nothing(store: SqlConversationStore) -> None:
    made = await opened(store, said("a"))
    for odd in ("", "msg_", "nul\x00", "half\ud83d", "x" * 1000, "msg_ffffffffffffffff", "%", "msg_%%"):
        assert await store.item(ANNA, made.id, odd) is None
        assert await store.delete_item(ANNA, made.id, odd) is None
        with pytest.raises(InvalidInput) as caught:
            await store.item_page(ANNA, made.id, limit=1, after=odd, oldest_first=True)
        assert caught.value.param == "after"


async def test_what_is_said_is_added_to_the_messages(store: SqlConversationStore) -> None:
    made = await opened(store, said("be brief", "developer"), said("nul \x00 and\nhalf \ud83d"), call("c"), output("c"))
    added = await store.add_items(ANNA, made.id, [said("answer", "assistant"), said("")])
    assert [entry.item for entry in added] == [said("answer", "assistant"), said("")]
    messages = await store.messages(ANNA, made.id)
    assert [(m.position, m.role, m.text) for m in messages] == [
        (1, "user", "nul \ufffd and\nhalf \ufffd"),
        (2, "assistant", "answer"),
    ]
    now = await store.get(ANNA, made.id)
    assert (now.title, now.message_count) == ("nul \ufffd and half \ufffd", 2)
    (_, second, *_), _ = await store.item_page(ANNA, made.id, limit=9, after=None, oldest_first=True)
    left = await store.delete_item(ANNA, made.id, second.id)
    assert left is not None
    assert left.message_count == 1
    assert [(m.position, m.text) for m in await store.messages(ANNA, made.id)] == [(1, "answer")]


REASONING = {"type": "reasoning", "summary": []}


DELETED: list[tuple[list[Item], int, list[int]]] = [
    ([call("a"), call("b"), output("a"), output("b")], 0, [1, 3]),
    ([call("a"), call("b"), output("a"), output("b")], 2, [0, 1, 3]),
    ([call("a"), output("a"), call("a"), output("a")], 0, [2, 3]),
    ([call("a"), output("a"), call("a"), output("a")], 2, [0, 1]),
    ([REASONING, call("a"), call("b"), output("a"), output("b")], 1, [0, 2, 4]),
    ([REASONING, REASONING, call("a"), output("a"), said("so")], 2, [4]),
    ([said("q"), REASONING, said("x", "assistant"), said("so")], 2, [0, 3]),
    ([said("q"), REASONING, said("x", "assistant")], 2, [0, 1]),
    ([said("q"), REASONING, said("x", "assistant"), said("so")], 1, [0, 2, 3]),
    ([said("q"), said("q")], 0, [1]),
]


async def test_pairs_stay_whole(store: SqlConversationStore) -> None:
    for items, gone, left in DELETED:
        made = await opened(store, *items)
        page, _ = await store.item_page(ANNA, made.id, limit=9, after=None, oldest_first=True)
        await store.delete_item(ANNA, made.id, page[gone].id)
        rest, _ = await store.item_page(ANNA, made.id, limit=9, after=None, oldest_first=True)
        assert [entry.id for entry in rest] == [page[number].id for number in left], (items, gone)


async def test_nothing_is_changed_while_a_run_is_unfinished(store: SqlConversationStore, engine: AsyncEngine) -> None:
    for status in ("queued", "running", "waiting"):
        made = await opened(store, said("a"))
        (item,), _ = await store.item_page(ANNA, made.id, limit=9, after=None, oldest_first=True)
        await insert_all(engine, runs, [run_row(made, status=status)])
        for change in (store.add_items(ANNA, made.id, [said("b")]), store.delete_item(ANNA, made.id, item.id)):
            with pytest.raises(RunConflict) as caught:
                await change
            assert caught.value.reason == "conversation_busy"
        assert await paged(store, made, 9, oldest_first=True) == [said("a")]
        assert (await store.get(ANNA, made.id)).message_count == 1


async def test_nothing_is_changed_that_is_kept_elsewhere(store: SqlConversationStore) -> None:
    made = await store.create(ANNA, agent=None, provider="openai", provider_conversation_id="conv_theirs")
    for change in (store.add_items(ANNA, made.id, [said("b")]), store.delete_item(ANNA, made.id, "msg_1")):
        with pytest.raises(RunConflict) as caught:
            await change
        assert caught.value.reason == "history_elsewhere"


async def test_writers_at_the_same_time_take_turns(store: SqlConversationStore, engine: AsyncEngine) -> None:
    made = await opened(store)
    await asyncio.gather(*(store.add_items(ANNA, made.id, [said(f"{n}a"), said(f"{n}b")]) for n in range(10)))
    messages = await store.messages(ANNA, made.id)
    assert [message.position for message in messages] == list(range(1, 21))
    items = [item["content"] for item in await paged(store, made, 7, oldest_first=True)]
    assert items == [message.text for message in messages]
    assert [(a[:-1], a[-1], b[-1]) for a, b in zip(items[::2], items[1::2], strict=True)] == [
        (b[:-1], "a", "b") for b in items[1::2]
    ]
    page, _ = await store.item_page(ANNA, made.id, limit=20, after=None, oldest_first=True)
    await asyncio.gather(*(store.delete_item(ANNA, made.id, entry.id) for entry in page[1:]))
    assert [(m.position, m.text) for m in await store.messages(ANNA, made.id)] == [(1, items[0])]
