"""Rows of several tables in one go: one round trip on PostgreSQL, one statement a table on SQLite."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Table, TextClause, insert, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.tables import JsonText

Rows = Sequence[Mapping[str, Any]]

_DIALECT = postgresql.dialect()


async def insert_rows(connection: AsyncConnection, batches: Mapping[Table, Rows]) -> None:
    """Insert the rows of each table, in the order given; every row of a table has the same keys.

    On PostgreSQL the inserts are chained as data-modifying CTEs over JSON recordsets: one statement whose text depends
    only on tables and columns, so it is planned once and carries any number of rows. All see the same snapshot, so a
    foreign key may point from one of the batches to another.
    """
    filled = {table: rows for table, rows in batches.items() if rows}
    if not filled:
        return
    if connection.dialect.name != "postgresql":
        for table, rows in filled.items():
            await connection.execute(insert(table), list(rows))
        return
    shape = tuple((table, tuple(rows[0])) for table, rows in filled.items())
    parameters = {f"rows_{index}": _recordset(table, rows) for index, (table, rows) in enumerate(filled.items())}
    await connection.execute(_chain(shape), parameters)


def _recordset(table: Table, rows: Rows) -> str:
    json_columns = [name for name in rows[0] if isinstance(table.c[name].type, JsonText)]
    if json_columns:
        rows = [
            {**row, **{name: None if row[name] is None else json_text.encode(row[name]) for name in json_columns}}
            for row in rows
        ]
    return msgspec.json.encode(rows).decode()


@lru_cache(maxsize=256)
def _chain(shape: tuple[tuple[Table, tuple[str, ...]], ...]) -> TextClause:
    parts = [_insert_from_recordset(index, table, columns) for index, (table, columns) in enumerate(shape)]
    return text(f"WITH {', '.join(parts)} SELECT 1")


def _insert_from_recordset(index: int, table: Table, columns: Sequence[str]) -> str:
    quoted = [f'"{name}"' for name in columns]
    typed = ", ".join(f'"{name}" {table.c[name].type.compile(_DIALECT)}' for name in columns)
    return (
        f"batch_{index} AS (INSERT INTO {table.name} ({', '.join(quoted)})"  # noqa: S608 - see _chain
        f" SELECT {', '.join(quoted)} FROM json_to_recordset(CAST(:rows_{index} AS json)) AS source({typed}))"
    )
