"""How often a whole run asks the database: statements, begins, commits and rollbacks, by the engine's events.

The SDK's own SQLAlchemySession needs 15 on PostgreSQL to record nothing but the history; with one tool 21.
"""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.contract.journal.test_trips import counted
from tests.crash.worker import working


@pytest.mark.parametrize(("text", "steps"), [("plain", 1), ("tool one", 4)])
async def test_a_run_on_postgresql(postgresql_engine: AsyncEngine, text: str, steps: int) -> None:
    async with working(postgresql_engine) as worker:
        first = await worker.say("plain")
        with counted(postgresql_engine) as trips:
            await worker.say(text, first.conversation_id)
    start = ["begin", "UPDATE", "INSERT", "SELECT", "commit"]
    end = ["begin", "UPDATE", "UPDATE", "INSERT", "WITH", "commit"]
    # A model call is one step; a tool that may not be repeated is one before it runs and one after.
    assert trips == [*start, *["WITH"] * steps, *end]
    assert len(trips) <= {"plain": 12, "tool one": 18}[text]


async def test_the_first_run_of_a_conversation(postgresql_engine: AsyncEngine) -> None:
    async with working(postgresql_engine) as worker:
        await worker.say("plain")
        with counted(postgresql_engine) as trips:
            await worker.say("tool one")
    assert len(trips) == 14, trips


@pytest.mark.parametrize(("text", "number"), [("plain", 20), ("tool one", 36)])
async def test_a_run_on_sqlite(sqlite_engine: AsyncEngine, text: str, number: int) -> None:
    async with working(sqlite_engine) as worker:
        first = await worker.say("plain")
        with counted(sqlite_engine) as trips:
            await worker.say(text, first.conversation_id)
    asked = [trip for trip in trips if trip != "BEGIN"]  # SQLite's own, which the begin event tells of, too
    # as on PostgreSQL, but a transaction for each step, and one statement a table
    assert len(asked) == number, asked
