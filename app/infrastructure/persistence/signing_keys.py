"""Keys that tokens are signed with, the same for all processes of a database."""

import secrets
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.completion_tables import signing_keys
from app.infrastructure.persistence.engine import reading, writing

_BYTES: Final = 32


class SqlSigningKeys:
    """SigningKeys over the shared engine, for SQLite and PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Use the engine; it stays the caller's to close."""
        self._engine = engine
        self._found: dict[str, bytes] = {}

    async def secret(self, purpose: str) -> bytes:
        """Return a purpose's key; see the port."""
        known = self._found.get(purpose)
        if known is not None:
            return known
        wanted = select(signing_keys.c.secret).where(signing_keys.c.purpose == purpose)
        async with reading(self._engine) as connection:
            found = (await connection.execute(wanted)).scalar_one_or_none()
        if found is None:
            insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
            made = insert(signing_keys).values(
                purpose=purpose, secret=secrets.token_hex(_BYTES), created_at=datetime.now(UTC)
            )
            async with writing(self._engine) as connection:
                await connection.execute(made.on_conflict_do_nothing())
                # Two processes may have made one: the first that was committed counts.
                found = (await connection.execute(wanted)).scalar_one()
        self._found[purpose] = bytes.fromhex(found)
        return self._found[purpose]
