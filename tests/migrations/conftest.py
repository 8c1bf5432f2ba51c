"""Here a fresh database is an empty one, without the tables that the other tests start with."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.databases import PostgresServer


@pytest.fixture
async def postgresql_url(postgres_server: PostgresServer) -> AsyncGenerator[str]:
    async with postgres_server.database() as name:
        yield postgres_server.url(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"
