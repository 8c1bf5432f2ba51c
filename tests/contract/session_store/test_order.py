"""Writers at the same time: what is read is in the order of writing, whatever the clocks say."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents.extensions.memory import SQLAlchemySession
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.providers.openai.durable_session import DurableSession
from app.infrastructure.providers.openai.session_store import OpenAISQLAlchemySessionStore
from app.infrastructure.providers.openai.session_tables import MESSAGES_TABLE, SESSIONS_TABLE
from tests.contract.session_store.conftest import (
    MakeSession,
    contents,
    in_both_orders,
    recorded_statements,
    row_counts,
    user,
)

NAMES = {"sessions_table": SESSIONS_TABLE, "messages_table": MESSAGES_TABLE}


def held(session: Any, *, before_writing: bool) -> tuple[asyncio.Event, asyncio.Event]:
    """Make the session's next write wait inside its transaction; returns (it waits there, go on)."""
    there, go_on = asyncio.Event(), asyncio.Event()
    whole = session._writing

    @asynccontextmanager
    async def writing() -> AsyncIterator[Any]:
        async with whole() as database:
            if before_writing:
                await database.execute(text("SELECT CURRENT_TIMESTAMP"))
                there.set()
                await go_on.wait()
            yield database
            if not before_writing:
                there.set()
                await go_on.wait()

    session._writing = writing
    return there, go_on


async def test_twenty_writers_of_one_new_session(make_session: MakeSession) -> None:
    async def write(writer: int) -> None:
        for part in range(4):
            await make_session("s").add_items([user(f"{writer}.{part}.a"), user(f"{writer}.{part}.b")])

    await asyncio.gather(*(write(writer) for writer in range(20)))

    session = make_session("s")
    stored = contents(await session.get_items())
    assert len(stored) == 160
    for first, second in zip(stored[::2], stored[1::2], strict=True):  # no append is torn apart
        assert (first[:-1], first[-1], second) == (second[:-1], "a", f"{first[:-1]}b")
    for writer in range(20):
        assert [text for text in stored if text.startswith(f"{writer}.") and text.endswith("a")] == [
            f"{writer}.{part}.a" for part in range(4)
        ]
    by_time, by_id = await in_both_orders(session.engine, session.session_id)
    assert by_time == by_id


async def test_writers_of_two_processes_and_the_sdk(engine: AsyncEngine, database_url: str) -> None:
    second_engine = build_engine(database_url)
    writers: list[SQLAlchemySession] = [
        OpenAISQLAlchemySessionStore(engine).session("s"),
        OpenAISQLAlchemySessionStore(second_engine).session("s"),
        DurableSession("default:s", engine=second_engine),
        SQLAlchemySession("default:s", engine=engine, **NAMES),
    ]

    async def write(writer: SQLAlchemySession, number: int) -> None:
        for part in range(5):
            await writer.add_items([user(f"{number}.{part}")])

    await asyncio.gather(*(write(writer, number) for number, writer in enumerate(writers * 3)))

    assert len(await writers[0].get_items()) == len(await writers[3].get_items()) == 60
    await second_engine.dispose()


async def test_concurrent_pops_return_each_item_once(make_session: MakeSession) -> None:
    await make_session("s").add_items([user(str(number)) for number in range(10)])
    popped = await asyncio.gather(*(make_session("s").pop_item() for _ in range(12)))
    assert sorted(contents(item for item in popped if item)) == sorted(str(number) for number in range(10))


async def test_a_writer_that_began_early_and_commits_late_comes_last(postgresql_engine: AsyncEngine) -> None:
    store = OpenAISQLAlchemySessionStore(postgresql_engine)
    for slow in (store.session("s"), DurableSession("default:s", engine=postgresql_engine)):
        await slow.clear_session()
        await store.session("s").add_items([user("first")])
        there, go_on = held(slow, before_writing=True)
        late = asyncio.create_task(slow.add_items([user("slow")]))
        await there.wait()
        await store.session("s").add_items([user("fast")])
        go_on.set()
        await late

        assert contents(await store.session("s").get_items()) == ["first", "fast", "slow"]
        by_time, by_id = await in_both_orders(postgresql_engine, "default:s")
        assert by_time == by_id
        assert await store.session("s").pop_item() == user("slow")


async def test_the_sdks_own_writer_shows_that_the_test_above_tests_something(postgresql_engine: AsyncEngine) -> None:
    slow = SQLAlchemySession("default:s", engine=postgresql_engine, **NAMES)
    there, go_on = asyncio.Event(), asyncio.Event()
    lock = slow._lock_session

    async def late_lock(database: Any, **options: Any) -> bool:
        await database.execute(text("SELECT CURRENT_TIMESTAMP"))
        there.set()
        await go_on.wait()
        return await lock(database, **options)

    slow._lock_session = late_lock  # type: ignore[method-assign]
    late = asyncio.create_task(slow.add_items([user("slow")]))
    await there.wait()
    ours = DurableSession("default:s", engine=postgresql_engine)
    await ours.add_items([user("fast")])
    go_on.set()
    await late

    assert contents(await ours.get_items()) == ["slow", "fast"]


async def test_a_clock_that_steps_back_changes_no_order(session: DurableSession) -> None:
    await session.add_items([user("1"), user("2")])
    tomorrow = {
        "sqlite": "datetime('now', '+1 day')",
        "postgresql": "created_at + interval '1 day'",
    }[session.engine.dialect.name]
    async with session.engine.begin() as connection:
        await connection.execute(text(f"UPDATE {MESSAGES_TABLE} SET created_at = {tomorrow}"))

    await session.add_items([user("3"), user("4")])
    await session.add_items([user("5")])

    assert contents(await session.get_items()) == ["1", "2", "3", "4", "5"]
    assert contents(await session.get_items(2)) == ["4", "5"]
    by_time, by_id = await in_both_orders(session.engine, session.session_id)
    assert by_time == by_id
    assert await session.pop_item() == user("5")


async def test_times_are_kept_as_the_sdk_keeps_them(session: DurableSession) -> None:
    await session.add_items([user("ours")])
    await SQLAlchemySession(session.session_id, engine=session.engine, **NAMES).add_items([user("theirs")])

    query = f"SELECT CAST(created_at AS TEXT), length(CAST(created_at AS TEXT)) FROM {MESSAGES_TABLE} ORDER BY id"
    async with session.engine.connect() as connection:
        [(ours, ours_length), (theirs, theirs_length)] = (await connection.execute(text(query))).all()
    assert ours <= theirs
    if session.engine.dialect.name == "sqlite":
        assert ours_length == theirs_length == len("2026-01-01 00:00:00")
    assert ours[:13] == theirs[:13]  # the same zone: the hours agree (an hour ends during one test in a million)


async def test_an_append_is_two_statements_in_one_transaction(make_session: MakeSession) -> None:
    await make_session("s").add_items([user("0")])
    session = make_session("s")
    with recorded_statements(session.engine) as seen:
        await session.add_items([user("1"), user("2"), user("3")])

    kinds = [statement.split()[0] for statement in seen if not statement.startswith("BEGIN IMMEDIATE")]
    if session.engine.dialect.name == "sqlite" and kinds[1] == "BEGIN":
        del kinds[1]  # our engine says BEGIN as a statement
    assert kinds == ["BEGIN", "INSERT", "INSERT", "COMMIT"]


async def test_a_read_is_one_statement(make_session: MakeSession) -> None:
    session = make_session("s")
    await session.add_items([user(str(number)) for number in range(5)])
    for limit in (None, 3, 50):
        with recorded_statements(session.engine) as seen:
            await session.get_items(limit)
        assert len([statement for statement in seen if statement.startswith("SELECT")]) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # only SQLite locks the whole database
async def test_a_locked_file_is_waited_for(make_session: MakeSession, database_url: str) -> None:
    session = make_session("s")
    await session.add_items([user("1")])
    other_process = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    other_process.execute("BEGIN IMMEDIATE")

    writes = asyncio.gather(
        session.add_items([user("2")]), make_session("t").pop_item(), make_session("u").clear_session()
    )
    done, _ = await asyncio.wait({writes}, timeout=0.3)
    assert not done
    assert contents(await session.get_items()) == ["1"]  # readers do not wait
    other_process.execute("COMMIT")
    other_process.close()
    await writes

    assert contents(await session.get_items()) == ["1", "2"]


@pytest.mark.parametrize("operation", ["add", "pop", "clear"])
async def test_cancelling_a_write_waits_for_its_transaction(make_session: MakeSession, operation: str) -> None:
    session = make_session("s")
    await session.add_items([user("1"), user("2")])
    there, go_on = held(session, before_writing=False)
    calls = {"add": lambda: session.add_items([user("3")]), "pop": session.pop_item, "clear": session.clear_session}
    write = asyncio.ensure_future(calls[operation]())
    await there.wait()

    for _ in range(3):
        write.cancel()
        await asyncio.wait({write}, timeout=0.01)
        assert not write.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await write

    left = {"add": ["1", "2", "3"], "pop": ["1"], "clear": []}[operation]
    assert contents(await make_session("s").get_items()) == left


async def test_cancelling_a_write_before_it_begins_writes_nothing(make_session: MakeSession) -> None:
    session = make_session("s")
    write = asyncio.ensure_future(session.add_items([user("1")]))
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert await row_counts(session.engine, session.session_id) == (0, 0)


async def test_a_write_that_fails_leaves_nothing(make_session: MakeSession) -> None:
    session = make_session("s")
    await session.add_items([user("1")])
    whole: Any = session._writing

    @asynccontextmanager
    async def failing() -> AsyncIterator[Any]:
        async with whole() as database:
            yield database
            raise RuntimeError("the process's disk is full")

    session._writing = failing  # type: ignore[method-assign]
    for call in (lambda: session.add_items([user("2")]), session.pop_item, session.clear_session):
        with pytest.raises(RuntimeError):
            await call()
    assert contents(await make_session("s").get_items()) == ["1"]
