"""Rows of several tables in one go: one round trip on PostgreSQL; on SQLite they go with the commit."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlalchemy import Table, TextClause, insert, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.infrastructure.persistence import json_text
from app.infrastructure.persistence.sqlite_connection import deferred
from app.infrastructure.persistence.tables import JsonText, run_approvals, run_steps, run_usage, sdk_messages

Rows = Sequence[Mapping[str, Any]]
Filled = Mapping[Table, Rows]

_DIALECT: Final = postgresql.dialect()

_STEP_CHANGES: Final = ("state", "request_hash", "result", "response_id", "started_at", "duration_ms")
_CONFLICTS: Final[Mapping[Table, tuple[str, ...]]] = {run_steps: _STEP_CHANGES, run_usage: (), run_approvals: ()}
"""Tables whose rows may be there already, and what a new row then changes: a step that had only begun is done now;
usage and requests stay as they are."""


async def insert_rows(connection: AsyncConnection, batches: Filled) -> None:
    """Insert the rows of each table, in the order given; every row of a table has the same keys.

    On PostgreSQL the inserts are chained as data-modifying CTEs over JSON recordsets: one statement whose text depends
    only on tables and columns, so it is planned once and carries any number of rows. All see the same snapshot, so a
    foreign key may point from one of the batches to another.
    """
    filled = filled_batches(batches)
    if not filled:
        return
    if connection.dialect.name != "postgresql":
        with deferred((await connection.get_raw_connection()).driver_connection):
            for table, rows in filled.items():
                await connection.execute(_sqlite_insert(table), list(rows))
        return
    await connection.execute(chained_inserts(shape_of(filled), None, "SELECT 1"), recordsets(filled))


def filled_batches(batches: Filled) -> Filled:
    """Return the batches that have rows."""
    return {table: rows for table, rows in batches.items() if rows}


Shape = tuple[tuple[Table, tuple[str, ...]], ...]


def shape_of(filled: Filled) -> Shape:
    """Return what the text of a chain depends on: tables and columns."""
    return tuple((table, tuple(rows[0])) for table, rows in filled.items())


def recordsets(filled: Filled) -> dict[str, str]:
    """Return the parameters of a chain: the rows of each table as JSON."""
    return {f"rows_{index}": _recordset(table, rows) for index, (table, rows) in enumerate(filled.items())}


@lru_cache(maxsize=256)
def chained_inserts(shape: Shape, guard: str | None, last: str) -> TextClause:
    """Return a PostgreSQL statement that inserts recordsets.

    `guard` is the text of a data-modifying statement with RETURNING, named `held` in the chain: nothing is inserted
    when it changes no row. `last` is the SELECT at the end.
    """
    parts = [] if guard is None else [f"held AS ({guard})"]
    parts += [_insert_from_recordset(index, table, columns, guard) for index, (table, columns) in enumerate(shape)]
    return text(f"WITH {', '.join(parts)} {last}")


def _recordset(table: Table, rows: Rows) -> str:
    json_columns = [name for name in rows[0] if isinstance(table.c[name].type, JsonText)]
    if json_columns:
        rows = [
            {**row, **{name: None if row[name] is None else json_text.encode(row[name]) for name in json_columns}}
            for row in rows
        ]
    return msgspec.json.encode(rows).decode()


def _insert_from_recordset(index: int, table: Table, columns: Sequence[str], guard: str | None) -> str:
    quoted = [f'"{name}"' for name in columns]
    typed = ", ".join(f'"{name}" {table.c[name].type.compile(_DIALECT)}' for name in columns)
    condition = "" if guard is None else " WHERE EXISTS (SELECT 1 FROM held)"
    return (
        f"batch_{index} AS (INSERT INTO {table.name} ({', '.join(quoted)})"  # noqa: S608 - names of our own tables
        f" SELECT {', '.join(quoted)} FROM json_to_recordset(CAST(:rows_{index} AS json)) AS source({typed})"
        f"{condition}{_on_conflict(table)}{' RETURNING id' if table is sdk_messages else ''})"
    )


def _on_conflict(table: Table) -> str:
    changes = _CONFLICTS.get(table)
    if changes is None:
        return ""
    keys = ", ".join(column.name for column in table.primary_key)
    if not changes:
        return f" ON CONFLICT ({keys}) DO NOTHING"
    return f" ON CONFLICT ({keys}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changes)}"


@lru_cache(maxsize=64)
def _sqlite_insert(table: Table) -> Any:
    changes = _CONFLICTS.get(table)
    if changes is None:
        return insert(table)
    statement = sqlite.insert(table)
    if not changes:
        return statement.on_conflict_do_nothing()
    keys = [column.name for column in table.primary_key]
    return statement.on_conflict_do_update(
        index_elements=keys, set_={name: statement.excluded[name] for name in changes}
    )
