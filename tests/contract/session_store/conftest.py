"""The sessions under test: the store's own, and bare ones over an engine that SQLAlchemy made."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.infrastructure.persistence.engine import normalize_url
from app.infrastructure.providers.openai.durable_session import DurableSession
from app.infrastructure.providers.openai.session_store import OpenAISQLAlchemySessionStore
from app.infrastructure.providers.openai.session_tables import MESSAGES_TABLE, SESSIONS_TABLE

MakeSession = Callable[..., DurableSession]
"""(id, session_settings) -> the session of that id in the organization `default`."""

StoreRow = Callable[[str], Awaitable[int]]
"""Puts a row behind all others of the session `default:s`, as it is, and gives its id."""


def user(content: str) -> Any:
    return {"role": "user", "content": content}


def contents(items: Any) -> list[str]:
    return [item["content"] for item in items]


@pytest.fixture
def store(engine: AsyncEngine) -> OpenAISQLAlchemySessionStore:
    return OpenAISQLAlchemySessionStore(engine)


@pytest.fixture
async def plain_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine as a user of the SDK makes one: no pragmas, the driver begins transactions as it likes."""
    engine = create_async_engine(normalize_url(database_url))
    yield engine
    await engine.dispose()


@pytest.fixture(params=["store", "bare", "bare over our engine"])
def make_session(
    request: pytest.FixtureRequest, store: OpenAISQLAlchemySessionStore, engine: AsyncEngine, plain_engine: AsyncEngine
) -> MakeSession:
    if request.param == "store":
        return store.session
    chosen = plain_engine if request.param == "bare" else engine
    return lambda session_id, **settings: DurableSession(f"default:{session_id}", engine=chosen, **settings)


@pytest.fixture
async def session(make_session: MakeSession) -> DurableSession:
    return make_session("s")


@pytest.fixture
def store_row(engine: AsyncEngine) -> StoreRow:
    async def put(data: str) -> int:
        async with engine.begin() as connection:
            found = await connection.execute(
                text(
                    f"INSERT INTO {MESSAGES_TABLE} (session_id, message_data, created_at) SELECT 'default:s', :data, "
                    f"max(created_at) FROM {MESSAGES_TABLE} WHERE session_id = 'default:s' RETURNING id"
                ),
                {"data": data},
            )
            return found.scalar_one()

    return put


async def row_counts(engine: AsyncEngine, key: str) -> tuple[int, int]:
    """Return how many session rows and message rows the key has."""
    async with engine.connect() as connection:
        counts = [
            (
                await connection.execute(text(f"SELECT count(*) FROM {table} WHERE session_id = :key"), {"key": key})
            ).scalar()
            for table in (SESSIONS_TABLE, MESSAGES_TABLE)
        ]
    return counts[0] or 0, counts[1] or 0


async def in_both_orders(engine: AsyncEngine, key: str) -> tuple[list[int], list[int]]:
    """Return the row ids of a session by (time, id), as readers sort, and by id alone, as they were written."""
    async with engine.connect() as connection:
        found = await connection.execute(
            text(f"SELECT id FROM {MESSAGES_TABLE} WHERE session_id = :key ORDER BY created_at, id"), {"key": key}
        )
        by_time = list(found.scalars())
    return by_time, sorted(by_time)


@contextmanager
def recorded_statements(engine: AsyncEngine) -> Iterator[list[str]]:
    """Collect what goes to the database in the block: SQL, and BEGIN, COMMIT and ROLLBACK."""
    seen: list[str] = []

    def on_execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    listeners = {
        "before_cursor_execute": on_execute,
        "begin": lambda _connection: seen.append("BEGIN"),
        "commit": lambda _connection: seen.append("COMMIT"),
        "rollback": lambda _connection: seen.append("ROLLBACK"),
    }
    for name, listener in listeners.items():
        event.listen(engine.sync_engine, name, listener)
    yield seen
    for name, listener in listeners.items():
        event.remove(engine.sync_engine, name, listener)


async def closed(engine: AsyncEngine) -> None:
    """Close an engine whose connections failed to open.

    The driver's thread of such a connection ends by itself, and reports to the event loop, which must still be there.
    """
    await engine.dispose()
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 5)
