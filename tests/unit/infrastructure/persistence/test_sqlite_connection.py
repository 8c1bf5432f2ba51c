"""Trips to SQLite's thread: few of them, and nothing is lost, hidden or left open for it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.infrastructure.persistence.batches import insert_rows
from app.infrastructure.persistence.engine import build_engine, reading, writing
from app.infrastructure.persistence.sqlite_connection import OneTripConnection, deferred
from app.infrastructure.persistence.tables import client_sessions
from tests.unit.infrastructure.persistence.test_event_log import NOW


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = build_engine(f"sqlite:///{tmp_path}/trips.db")
    async with writing(made) as connection:
        await connection.run_sync(client_sessions.create)
    yield made
    await made.dispose()


def row(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "organization_id": "acme",
        "user_id": None,
        "agent": None,
        "conversation_id": "conv",
        "created_at": NOW,
    }


async def names(engine: AsyncEngine) -> list[str]:
    async with reading(engine) as connection:
        return list((await connection.execute(select(client_sessions.c.id).order_by("id"))).scalars())


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    made: list[Any] = []
    execute = OneTripConnection._execute

    async def counted(self: Any, work: Any, *rest: Any, **more: Any) -> Any:
        made.append(work)
        return await execute(self, work, *rest, **more)

    monkeypatch.setattr(OneTripConnection, "_execute", counted)
    return made


async def test_beginning_and_rows_go_with_the_commit(engine: AsyncEngine, trips: list[Any]) -> None:
    async with writing(engine) as connection:
        await insert_rows(connection, {client_sessions: [row("a"), row("b")]})
        await insert_rows(connection, {client_sessions: [row("c")]})
        assert trips == []
    assert len(trips) == 1
    assert await names(engine) == ["a", "b", "c"]


async def test_a_statement_sees_what_was_deferred_before_it(engine: AsyncEngine, trips: list[Any]) -> None:
    async with writing(engine) as connection:
        await insert_rows(connection, {client_sessions: [row("a")]})
        assert (await connection.execute(text("SELECT count(*) FROM client_sessions"))).scalar_one() == 1
        assert len(trips) == 1
    assert await names(engine) == ["a"]


async def test_a_transaction_in_which_nothing_happens_makes_no_trip(engine: AsyncEngine, trips: list[Any]) -> None:
    async with writing(engine):
        pass
    with pytest.raises(LookupError):
        async with writing(engine):
            raise LookupError
    async with reading(engine):
        pass
    assert trips == []


async def test_what_was_deferred_before_a_rollback_is_forgotten(engine: AsyncEngine) -> None:
    with pytest.raises(LookupError):
        async with writing(engine) as connection:
            await insert_rows(connection, {client_sessions: [row("a")]})
            raise LookupError
    assert await names(engine) == []
    async with writing(engine) as connection:
        await insert_rows(connection, {client_sessions: [row("b")]})
    assert await names(engine) == ["b"]


async def twice(connection: AsyncConnection) -> None:
    await insert_rows(connection, {client_sessions: [row("a")]})
    await insert_rows(connection, {client_sessions: [row("b"), row("a")]})


async def test_an_error_of_a_deferred_row_comes_out_at_the_commit_and_nothing_stays(engine: AsyncEngine) -> None:
    with pytest.raises(IntegrityError):
        async with writing(engine) as connection:
            await twice(connection)
    # The connection goes back to the pool with no transaction open.
    assert await names(engine) == []
    async with writing(engine) as connection:
        await insert_rows(connection, {client_sessions: [row("c")]})
    assert await names(engine) == ["c"]


async def test_an_error_of_a_deferred_row_comes_out_at_the_next_statement(engine: AsyncEngine) -> None:
    with pytest.raises(IntegrityError):
        async with writing(engine) as connection:
            await twice(connection)
            await connection.execute(insert(client_sessions), row("d"))
    assert await names(engine) == []


def test_other_connections_defer_nothing() -> None:
    with deferred(object()):
        pass
