"""Inserts events into a table of a database, each of them once."""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, MetaData, String, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import SendFailed
from app.domain.errors import ConfigurationError, StorageUnavailable
from app.domain.models.deliveries import DestinationSettings, Message
from app.infrastructure.persistence.engine import build_engine, writing
from app.infrastructure.persistence.tables import JsonText, UtcDateTime

_NAME = re.compile("[a-z_][a-z0-9_]{0,62}")


class TableSink:
    """One table: `event_id`, `type`, `organization_id`, `created_at`, `body`. It is made if it does not exist.

    `endpoint` is the database's URL, option `table` the name (default `completion_copies`). A repeated event changes
    nothing.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        """Check the description.

        Raises:
            ConfigurationError: the URL names no database that we know, or the table's name is none.
        """
        name = str(settings.options.get("table", "completion_copies"))
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(f"destinations.{settings.name}.options.table: lower case letters, digits, '_'.")
        try:
            self._engine: AsyncEngine = build_engine(settings.endpoint)
        except ConfigurationError as error:
            message = f"destinations.{settings.name}.endpoint: a sqlite or postgresql URL is needed."
            raise ConfigurationError(message) from error
        self._table = Table(
            name,
            MetaData(),
            Column("event_id", String(64), primary_key=True),
            Column("type", String(64), nullable=False),
            Column("organization_id", String(64), nullable=False),
            Column("created_at", UtcDateTime, nullable=False),
            Column("body", JsonText, nullable=False),
        )
        self._made = False

    async def send(self, batch: Sequence[Message]) -> int | None:
        """Insert the events; see the port."""
        rows: list[dict[str, Any]] = [
            {
                "event_id": message.id,
                "type": message.type,
                "organization_id": message.organization_id,
                "created_at": message.created_at,
                "body": dict(message.body),
            }
            for message in batch
        ]
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        try:
            async with writing(self._engine) as connection:
                if not self._made:
                    await connection.run_sync(self._table.metadata.create_all)
                await connection.execute(dialect.insert(self._table).values(rows).on_conflict_do_nothing())
        except (StorageUnavailable, SQLAlchemyError) as error:
            raise SendFailed(f"The table cannot be written: {type(error).__name__}.") from error
        self._made = True

    async def aclose(self) -> None:
        """Close the connections."""
        await self._engine.dispose()
