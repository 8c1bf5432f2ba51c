"""How often a run asks the database: statements, begins, commits and rollbacks, counted by the engine's events."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.crash.worker import working

SDK_WITHOUT_TOOL = 15
"""What the SDK's own SQLAlchemySession needs on PostgreSQL to record nothing but the history; with one tool 21."""


@contextmanager
def counted(engine: AsyncEngine) -> Iterator[list[str]]:
    trips: list[str] = []

    def statement(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        if not text.startswith("BEGIN"):  # SQLite's own BEGIN is the begin event's
            trips.append(text.split("\n")[0][:60])

    listeners: list[tuple[str, Any]] = [("before_cursor_execute", statement)]
    listeners += [(name, lambda *_, told=name: trips.append(told)) for name in ("begin", "commit", "rollback")]
    for name, listener in listeners:
        event.listen(engine.sync_engine, name, listener)
    yield trips
    for name, listener in listeners:
        event.remove(engine.sync_engine, name, listener)


@pytest.mark.parametrize(("text", "most"), [("plain", 12), ("tool one", 18)])
async def test_a_run_on_postgresql(postgresql_engine: AsyncEngine, text: str, most: int) -> None:
    async with working(postgresql_engine) as worker:
        first = await worker.say("plain")
        with counted(postgresql_engine) as trips:
            await worker.say(text, first.conversation_id)
    assert len(trips) <= most, trips
    # begin, conversation, run, history, commit; begin, conversation, run, session, all other rows, commit
    assert len(trips) == 11, trips


async def test_the_first_run_of_a_conversation(postgresql_engine: AsyncEngine) -> None:
    async with working(postgresql_engine) as worker:
        await worker.say("plain")
        with counted(postgresql_engine) as trips:
            await worker.say("tool one")
    assert len(trips) == 10, trips


@pytest.mark.parametrize("text", ["plain", "tool one"])
async def test_a_run_on_sqlite(sqlite_engine: AsyncEngine, text: str) -> None:
    async with working(sqlite_engine) as worker:
        first = await worker.say("plain")
        with counted(sqlite_engine) as trips:
            await worker.say(text, first.conversation_id)
    # as on PostgreSQL, but one statement a table at the end
    assert len(trips) == 16, trips
