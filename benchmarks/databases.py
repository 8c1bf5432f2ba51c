"""Where both sides keep their rows: files of SQLite, and a real PostgreSQL server."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from sqlite3 import sqlite_version

import asyncpg
from sqlalchemy import make_url

from tests.databases import PostgresServer


@dataclass(frozen=True, slots=True)
class Database:
    """A kind of database."""

    name: str
    note: str
    """What a reader of the figures should know about it."""
    fresh: Callable[[], AbstractAsyncContextManager[str]]
    """Gives the URL of an empty one."""


@contextmanager
def open_databases() -> Iterator[list[Database]]:
    """Give SQLite and PostgreSQL; call it where no event loop runs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        server = PostgresServer()
        stack.callback(server.remove)
        server.start()
        yield [_sqlite(folder), _postgresql(server)]


def _sqlite(folder: Path) -> Database:
    numbers = count(1)

    @asynccontextmanager
    async def fresh() -> AsyncIterator[str]:
        yield f"sqlite:///{folder / f'{next(numbers)}.db'}"

    return Database("SQLite", f"SQLite {sqlite_version}, WAL, synchronous=NORMAL on both sides", fresh)


def _postgresql(server: PostgresServer) -> Database:
    @asynccontextmanager
    async def fresh() -> AsyncIterator[str]:
        async with server.database() as name:
            yield server.url(name)

    note = asyncio.run(_describe(server.url("postgres")))
    return Database("PostgreSQL", note, fresh)


async def _describe(url: str) -> str:
    parsed = make_url(url)
    connection = await asyncpg.connect(host=parsed.query["host"], user=parsed.username, database=parsed.database)
    try:
        shown = {name: await connection.fetchval(f"SHOW {name}") for name in ("server_version", "fsync")}
    finally:
        await connection.close()
    return (
        f"PostgreSQL {shown['server_version']} on this machine, fsync {shown['fsync']}, its data in "
        "memory where there is /dev/shm, its own CPU not counted"
    )
