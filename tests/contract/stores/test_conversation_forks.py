"""Forks on both databases: what a run or an item has behind it, and nothing of what came later."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import InvalidInput, RunConflict, RunNotFound
from app.domain.models.conversations import Caller, Conversation, ForkPoint, Item, NewConversation
from app.domain.models.runs import RunStatus
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import conversations, runs, sdk_messages
from tests.contract.journal.factory import CALLER, end_of, new_run, row_of
from tests.contract.stores.rows import counts
from tests.crash.worker import items_of, working


@pytest.fixture
def store(engine: AsyncEngine) -> SqlConversationStore:
    return SqlConversationStore(engine)


def said(text: str, role: str = "user") -> Item:
    return {"role": role, "content": text}


def call(name: str) -> Item:
    return {"type": "function_call", "call_id": name, "name": "t", "arguments": "{}"}


def output(name: str) -> Item:
    return {"type": "function_call_output", "call_id": name, "output": name}


async def texts(store: SqlConversationStore, conversation_id: str, caller: Caller = CALLER) -> list[str]:
    messages = await store.messages(caller, conversation_id)
    assert [message.position for message in messages] == list(range(1, len(messages) + 1))
    assert (await store.get(caller, conversation_id)).message_count == len(messages)
    return [message.text for message in messages]


async def end_of_history(engine: AsyncEngine, conversation_id: str) -> int:
    async with reading(engine) as connection:
        latest = (
            select(func.max(sdk_messages.c.id))
            .join(conversations, conversations.c.sdk_session_id == sdk_messages.c.session_id)
            .where(conversations.c.id == conversation_id)
        )
        return (await connection.execute(latest)).scalar_one()


async def test_the_end_of_every_run_is_recorded_with_it(store: SqlConversationStore, engine: AsyncEngine) -> None:
    async with working(engine) as worker:
        known = await worker.say("one")
        for text in ("tool two", "three", "tool four"):
            others = [worker.say(f"beside {number}") for number in range(3)]
            made, *_ = await asyncio.gather(worker.say(text, known.conversation_id), *others)
            row = await row_of(engine, made.run_id)
            assert row.history_end_id == await end_of_history(engine, known.conversation_id)
            assert row.last_message == (await store.get(CALLER, known.conversation_id)).message_count


async def test_a_fork_holds_what_there_was_when_the_run_had_ended(
    store: SqlConversationStore, engine: AsyncEngine
) -> None:
    async with working(engine) as worker:
        first = await worker.say("one")
        source = first.conversation_id
        second = await worker.say("tool two", source)
        behind_second = await items_of(engine, source)
        await store.add_items(CALLER, source, [said("in between")])
        await worker.say("three", source)
        before = await counts(engine)

        fork = await store.fork(CALLER, source, ForkPoint(after_run_id=second.run_id))
        assert await items_of(engine, fork.id) == behind_second
        assert await texts(store, fork.id) == ["one", "re: one", "tool two", "re: tool two"]
        assert (fork.run_count, fork.agent, fork.last_agent, fork.title) == (0, "scribe", "scribe", "one")
        assert fork.id != source
        assert len(await items_of(engine, source)) == len(behind_second) + 3
        added = {
            name: number - before[name] for name, number in (await counts(engine)).items() if number > before[name]
        }
        assert added == {
            "agent_conversations": 1,
            "agent_messages": 4,
            "sdk_agent_sessions": 1,
            "sdk_agent_session_messages": 6,
        }

        await worker.say("other three", fork.id)
        assert (await texts(store, fork.id))[4:] == ["other three", "re: other three"]
        assert (await texts(store, source))[4:] == ["in between", "three", "re: three"]
        whole = await store.fork(CALLER, source, ForkPoint())
        assert await items_of(engine, whole.id) == await items_of(engine, source)
        assert await texts(store, whole.id) == await texts(store, source)
        await store.delete(CALLER, source)
        assert (await texts(store, fork.id))[:2] == ["one", "re: one"]
        assert [hit.conversation_id for hit in await store.search(CALLER, "other", 9)] == [fork.id] * 2


async def test_a_fork_is_the_users_own(store: SqlConversationStore) -> None:
    made = await store.open(CALLER, NewConversation("openai", title="t", metadata={"a": "b"}, items=[said("x")]))
    fork = await store.fork(Caller("acme"), made.id, ForkPoint())
    assert (fork.user_id, fork.title, dict(fork.metadata)) == ("ada", "t", {"a": "b"})
    assert await store.get(CALLER, fork.id) == fork


async def open_and_fork(
    store: SqlConversationStore, engine: AsyncEngine, items: list[Item], last: int
) -> tuple[Conversation, list[Item]]:
    made = await store.open(CALLER, NewConversation("openai", items=items))
    page, _ = await store.item_page(CALLER, made.id, limit=50, after=None, oldest_first=True)
    fork = await store.fork(CALLER, made.id, ForkPoint(after_item_id=page[last].id))
    return fork, await items_of(engine, fork.id)


REASONING: Item = {"type": "reasoning", "summary": []}


CUT: list[tuple[list[Item], int, list[int]]] = [
    ([said("a"), said("b", "assistant"), said("c")], 1, [0, 1]),
    ([said("a"), call("1"), output("1"), said("b", "assistant")], 1, [0]),
    ([said("a"), call("1"), call("2"), output("1"), output("2")], 3, [0, 1, 3]),
    ([said("a"), REASONING, call("1"), output("1")], 2, [0]),
    ([said("a"), call("1"), output("1"), call("2"), output("2")], 3, [0, 1, 2]),
    ([said("a"), call("open"), said("b")], 1, [0, 1]),  # nobody has answered it, and somebody may
    ([said("a"), call("open"), said("b")], 2, [0, 1, 2]),
]


async def test_a_fork_behind_an_item_splits_no_pair(store: SqlConversationStore, engine: AsyncEngine) -> None:
    for items, last, copied in CUT:
        fork, found = await open_and_fork(store, engine, items, last)
        assert found == [items[number] for number in copied], (items, last)
        assert await texts(store, fork.id) == [items[n]["content"] for n in copied if "role" in items[n]]


async def test_a_fork_behind_an_item_of_a_run(store: SqlConversationStore, engine: AsyncEngine) -> None:
    async with working(engine) as worker:
        source = (await worker.say("one")).conversation_id
        await worker.say("tool two", source)
        await worker.say("three", source)
    page, _ = await store.item_page(CALLER, source, limit=50, after=None, oldest_first=True)
    expected = [
        ["one"],
        ["one", "re: one"],
        ["one", "re: one", "tool two"],
        ["one", "re: one", "tool two"],
        ["one", "re: one", "tool two"],
        ["one", "re: one", "tool two", "re: tool two"],
        ["one", "re: one", "tool two", "re: tool two", "three"],
        ["one", "re: one", "tool two", "re: tool two", "three", "re: three"],
    ]
    numbers = []
    for entry, messages in zip(page, expected, strict=True):
        fork = await store.fork(CALLER, source, ForkPoint(after_item_id=entry.id))
        assert await texts(store, fork.id) == messages
        numbers.append(len(await items_of(engine, fork.id)))
    assert numbers == [1, 2, 3, 3, 5, 6, 7, 8]


async def test_points_that_cannot_be(store: SqlConversationStore, engine: AsyncEngine) -> None:
    journal = SqlRunJournal(engine, lease_s=15)
    started = await journal.start(new_run(), "me")
    source = started.run.conversation_id
    other = await store.open(CALLER, NewConversation("openai", items=[said("x")]))
    (item,), _ = await store.item_page(CALLER, other.id, limit=1, after=None, oldest_first=True)
    before = await counts(engine)
    for run_id in ("run_nope", "nul\x00", "half\ud83d", ""):
        with pytest.raises(RunNotFound):
            await store.fork(CALLER, source, ForkPoint(after_run_id=run_id))
    with pytest.raises(RunNotFound):
        await store.fork(CALLER, other.id, ForkPoint(after_run_id=started.run.id))
    for item_id in ("msg_nope", "nul\x00", item.id):
        with pytest.raises(InvalidInput) as wrong:
            await store.fork(CALLER, source, ForkPoint(after_item_id=item_id))
        assert wrong.value.param == "after_item_id"
    with pytest.raises(RunConflict) as early:
        await store.fork(CALLER, source, ForkPoint(after_run_id=started.run.id))
    assert early.value.reason == "run_unfinished"
    assert await counts(engine) == before


async def test_a_run_that_added_nothing_ends_where_the_last_one_did(
    store: SqlConversationStore, engine: AsyncEngine
) -> None:
    journal = SqlRunJournal(engine, lease_s=15)
    made = await store.open(CALLER, NewConversation("openai", items=[said("first")]))
    run = (await journal.start(new_run(conversation_id=made.id), "me")).run
    record = end_of(run, 0, RunStatus.CANCELLED)
    nothing = replace(record, result=replace(record.result, items=()), messages=())
    await journal.finish(run, nothing)
    await store.add_items(CALLER, made.id, [said("later")])
    fork = await store.fork(CALLER, made.id, ForkPoint(after_run_id=run.id))
    assert await items_of(engine, fork.id) == [said("first")]
    assert await texts(store, fork.id) == ["first"]


async def test_runs_of_an_earlier_release(store: SqlConversationStore, engine: AsyncEngine) -> None:
    """They did not record their ends: only behind the last one is it known what there was."""
    async with working(engine) as worker:
        first = await worker.say("one")
        source = first.conversation_id
        second = await worker.say("two", source)
        async with writing(engine) as connection:
            await connection.execute(update(runs).values(history_end_id=None, last_message=None))
        fork = await store.fork(CALLER, source, ForkPoint(after_run_id=second.run_id))
        assert await texts(store, fork.id) == ["one", "re: one", "two", "re: two"]
        with pytest.raises(RunConflict) as caught:
            await store.fork(CALLER, source, ForkPoint(after_run_id=first.run_id))
        assert caught.value.reason == "history_unknown"
        page, _ = await store.item_page(CALLER, source, limit=9, after=None, oldest_first=True)
        fork = await store.fork(CALLER, source, ForkPoint(after_item_id=page[1].id))
        assert await texts(store, fork.id) == ["one", "re: one"]


async def test_the_last_run(store: SqlConversationStore, engine: AsyncEngine) -> None:
    async with working(engine) as worker:
        first = await worker.say("one")
        source = first.conversation_id
        assert await store.is_last_run(CALLER, source, first.run_id)
        second = await worker.say("two", source)
        assert not await store.is_last_run(CALLER, source, first.run_id)
        assert await store.is_last_run(CALLER, source, second.run_id)
        journal: Any = worker.journal
        third = (await journal.start(new_run(conversation_id=source), "me")).run
        for run_id in (second.run_id, third.id, "run_nope", "nul\x00"):
            assert not await store.is_last_run(CALLER, source, run_id)
