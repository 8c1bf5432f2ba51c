"""The revisions themselves: up, down and up again, and that they make what the models describe."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Inspector, TextClause, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence import schema
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.search_tables import SEARCH_TABLE
from app.infrastructure.persistence.tables import metadata
from tests.migrations.commands import (
    ALL,
    CONVERSATIONS,
    HEAD,
    JOURNAL,
    SDK_SESSIONS,
    STEP_BY_STEP,
    TABLES,
    autogenerate,
    config,
    down,
    up,
)


def _described(connection: Connection) -> dict[str, Any]:
    """Everything the catalogue says of our tables, whatever the order their columns and constraints were made in."""
    inspector: Inspector = inspect(connection)
    return {
        name: {
            "columns": {
                column["name"]: (
                    column["type"].compile(connection.dialect),
                    column["nullable"],
                    column["default"],
                    column.get("autoincrement"),
                )
                for column in inspector.get_columns(name)
            },
            "primary key": inspector.get_pk_constraint(name),
            "foreign keys": sorted(inspector.get_foreign_keys(name), key=str),
            "unique": sorted(inspector.get_unique_constraints(name), key=str),
            "checks": sorted(inspector.get_check_constraints(name), key=str),
            "indexes": sorted(
                ({**index, "dialect_options": _plain(index["dialect_options"])} for index in _indexes(inspector, name)),
                key=str,
            ),
        }
        for name in inspector.get_table_names()
        if name != "alembic_version" and not name.startswith(SEARCH_TABLE)
    }


def _indexes(inspector: Inspector, table: str) -> list[dict[str, Any]]:
    return [{"dialect_options": {}, **index} for index in inspector.get_indexes(table)]


def _plain(options: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in options.items()}


async def _described_by(engine: AsyncEngine) -> dict[str, Any]:
    async with reading(engine) as connection:
        return await connection.run_sync(_described)


def _differences(connection: Connection) -> list[Any]:
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "target_metadata": metadata,
        "include_name": lambda name, *_: name is None or not name.startswith(SEARCH_TABLE),
    }
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


async def test_up_from_empty_down_to_nothing_and_up_again(engine: AsyncEngine) -> None:
    await up(engine)
    first = await _described_by(engine)
    assert set(first) == set(metadata.tables)
    await down(engine)
    assert await _described_by(engine) == {}
    await up(engine)
    assert await _described_by(engine) == first


async def test_each_revision_goes_up_and_down_by_itself(engine: AsyncEngine) -> None:
    seen = [await _described_by(engine)]
    expected: set[str] = set()
    for revision in ALL:
        await up(engine, revision)
        seen.append(await _described_by(engine))
        expected |= TABLES[revision]
        assert set(seen[-1]) == expected
        await down(engine, "-1")
        assert await _described_by(engine) == seen[-2]
        await up(engine, revision)
    for before in reversed(seen[:-1]):
        await down(engine, "-1")
        assert await _described_by(engine) == before


async def test_models_and_schema_agree_by_alembics_comparison(engine: AsyncEngine) -> None:
    await up(engine)
    async with reading(engine) as connection:
        assert await connection.run_sync(_differences) == []


async def test_models_and_schema_agree_in_every_catalogue_entry(engine: AsyncEngine) -> None:
    """Alembic's comparison leaves out partial indexes' conditions, names of keys and on-delete rules."""
    await up(engine)
    migrated = await _described_by(engine)
    await down(engine)
    async with writing(engine) as connection:
        await connection.run_sync(metadata.create_all)
    assert await _described_by(engine) == migrated


async def test_the_partial_unique_index_lets_one_run_run(engine: AsyncEngine) -> None:
    await up(engine)
    indexes = (await _described_by(engine))["agent_runs"]["indexes"]
    (one,) = [index for index in indexes if index["name"] == "uq_agent_runs_one_running_per_conversation"]
    assert one["unique"]
    assert "running" in one["dialect_options"][f"{engine.dialect.name}_where"]


async def test_every_constraint_is_named_by_the_convention(engine: AsyncEngine) -> None:
    await up(engine)
    for table, described in (await _described_by(engine)).items():
        if (engine.dialect.name, table) != ("sqlite", "sdk_agent_session_messages"):  # AUTOINCREMENT takes no name
            assert described["primary key"]["name"] == f"pk_{table}"
        for key in described["foreign keys"]:
            assert key["name"] == f"fk_{table}_{key['constrained_columns'][0]}_{key['referred_table']}"
        for unique in described["unique"]:
            assert unique["name"] == f"uq_{table}_{'_'.join(unique['column_names'])}"


async def test_the_sdk_revision_adds_exactly_what_it_says(engine: AsyncEngine) -> None:
    await up(engine, CONVERSATIONS)
    before = await _described_by(engine)
    await up(engine, SDK_SESSIONS)
    after = await _described_by(engine)

    added = after["agent_conversations"]["columns"].items() - before["agent_conversations"]["columns"].items()
    timestamp = "DATETIME" if engine.dialect.name == "sqlite" else "TIMESTAMP WITH TIME ZONE"
    assert {name: (kind, nullable) for name, (kind, nullable, *_) in added} == {
        "sdk_session_id": ("VARCHAR(255)", True),
        "session_cursor": ("VARCHAR(128)", True),
        "last_session_sync_at": (timestamp, True),
    }
    assert [unique["column_names"] for unique in after["agent_conversations"]["unique"]] == [["sdk_session_id"]]
    assert before["agent_conversations"]["unique"] == []
    assert set(after) - set(before) == {"sdk_agent_sessions", "sdk_agent_session_messages"}
    assert set(after["sdk_agent_sessions"]["columns"]) == {"session_id", "created_at", "updated_at"}
    messages = after["sdk_agent_session_messages"]
    assert set(messages["columns"]) == {"id", "session_id", "message_data", "created_at"}
    assert [(index["name"], index["column_names"]) for index in messages["indexes"]] == [
        ("idx_sdk_agent_session_messages_session_time", ["session_id", "created_at"])
    ]
    (key,) = messages["foreign keys"]
    assert (key["referred_table"], key["options"]) == ("sdk_agent_sessions", {"ondelete": "CASCADE"})
    unchanged = {"agent_messages", "client_sessions"}
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}


CONVERSATION = text(
    "INSERT INTO agent_conversations (id, organization_id, title, metadata, kind, provider, run_count, created_at,"
    " updated_at) VALUES ('c1', 'o1', 'Größe', '[1]', 'chat', 'openai', 3, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
)
MESSAGE = text(
    "INSERT INTO agent_messages (conversation_id, position, role, text, created_at)"
    " VALUES ('c1', 0, 'user', 'Hello', CURRENT_TIMESTAMP)"
)


async def _rows(engine: AsyncEngine, statement: str) -> list[tuple[Any, ...]]:
    async with reading(engine) as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def test_rows_survive_the_sdk_revision_up_down_and_up(engine: AsyncEngine) -> None:
    """SQLite rewrites the table for it; the messages that refer to it must not be deleted by the cascade."""
    await up(engine, CONVERSATIONS)
    async with writing(engine) as connection:
        await connection.execute(CONVERSATION)
        await connection.execute(MESSAGE)
    conversations = "SELECT id, organization_id, title, metadata, kind, provider, run_count, created_at"
    conversations += " FROM agent_conversations"
    messages = "SELECT conversation_id, text FROM agent_messages"
    before = await _rows(engine, conversations)

    for move in (up, down, up):
        await move(engine, SDK_SESSIONS if move is up else CONVERSATIONS)
        assert await _rows(engine, conversations) == before
        assert await _rows(engine, messages) == [("c1", "Hello")]
    assert await _rows(engine, "SELECT sdk_session_id, last_session_sync_at FROM agent_conversations") == [(None, None)]

    async with writing(engine) as connection:
        await connection.execute(text("DELETE FROM agent_conversations"))
    assert await _rows(engine, messages) == []


RUN = text(
    "INSERT INTO agent_runs (id, conversation_id, organization_id, agent, position, status, session_mode, input,"
    " options, stream, history_items, fence, attempts, journal_version, created_at)"
    " VALUES (:id, 'c1', 'o1', 'scribe', :position, 'completed', 'local', '[]', '{}', :no, 10, 1, 1, 1,"
    " CURRENT_TIMESTAMP)"
)
APPROVAL = text(
    "INSERT INTO agent_run_approvals (run_id, step, position, call_id, tool, arguments, agent, scope, state, always,"
    " requested_at) VALUES ('r1', '/t:a', 1, 'a', 'rm', '{}', 'scribe', '', 'pending', :no, CURRENT_TIMESTAMP)"
)
STEP = text(
    "INSERT INTO agent_run_steps (run_id, step, kind, name, agent, state, started_at, duration_ms)"
    " VALUES ('r1', '/m1', 'model', 'm', 'scribe', 'done', CURRENT_TIMESTAMP, 3)"
)


async def _write(engine: AsyncEngine, *statements: tuple[TextClause, dict[str, Any]]) -> None:
    async with writing(engine) as connection:
        for statement, values in statements:
            await connection.execute(statement, values)


async def test_rows_survive_the_step_by_step_revision_up_down_and_up(engine: AsyncEngine) -> None:
    await up(engine, JOURNAL)
    run = {"id": "r1", "position": 1, "no": False}
    await _write(engine, (CONVERSATION, {}), (RUN, run), (STEP, {}))
    runs = "SELECT id, conversation_id, agent, status, input, stream, fence, journal_version FROM agent_runs"
    before = await _rows(engine, runs)
    for move in (up, down, up):
        await move(engine, STEP_BY_STEP if move is up else JOURNAL)
        assert await _rows(engine, runs) == before
        assert await _rows(engine, "SELECT run_id, step, kind, duration_ms FROM agent_run_steps") == [
            ("r1", "/m1", "model", 3)
        ]
    added = "SELECT cancel_reason, idempotency_key, request_hash FROM agent_runs"
    assert await _rows(engine, added) == [(None, None, None)]


async def test_rows_of_the_step_by_step_revision_do_not_stop_the_way_down(engine: AsyncEngine) -> None:
    await up(engine)
    await _write(engine, (CONVERSATION, {}), (RUN, {"id": "r1", "position": 1, "no": False}))
    await _write(
        engine,
        (text("UPDATE agent_runs SET cancel_reason = 'user', idempotency_key = 'k', request_hash = 'h'"), {}),
        (APPROVAL, {"no": False}),
    )
    await down(engine, JOURNAL)
    assert await _rows(engine, "SELECT id, cancel_requested FROM agent_runs") == [("r1", False)]
    await up(engine)
    assert await _rows(engine, "SELECT id, cancel_reason FROM agent_runs") == [("r1", None)]


async def test_an_idempotency_key_names_one_run_of_an_organization(engine: AsyncEngine) -> None:
    await up(engine)
    await _write(engine, (CONVERSATION, {}))
    for position, run_id in enumerate(("r1", "r2", "r3"), 1):
        await _write(engine, (RUN, {"id": run_id, "position": position, "no": False}))
    keyed = text("UPDATE agent_runs SET idempotency_key = 'k', organization_id = :organization WHERE id = :id")
    await _write(engine, (keyed, {"id": "r1", "organization": "o1"}), (keyed, {"id": "r2", "organization": "o2"}))
    with pytest.raises(IntegrityError):
        await _write(engine, (keyed, {"id": "r3", "organization": "o1"}))


async def test_approvals_go_with_their_run(engine: AsyncEngine) -> None:
    await up(engine)
    await _write(engine, (CONVERSATION, {}), (RUN, {"id": "r1", "position": 1, "no": False}), (APPROVAL, {"no": False}))
    await _write(engine, (text("DELETE FROM agent_runs"), {}))
    assert await _rows(engine, "SELECT step FROM agent_run_approvals") == []


async def test_the_sdks_own_session_works_on_the_migrated_tables(engine: AsyncEngine) -> None:
    from agents.extensions.memory import SQLAlchemySession

    await up(engine)
    session = SQLAlchemySession(
        "conv_1",
        engine=engine,
        create_tables=False,
        sessions_table="sdk_agent_sessions",
        messages_table="sdk_agent_session_messages",
    )
    items: list[Any] = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    await session.add_items(items)
    assert await session.get_items() == items
    assert await session.get_items(limit=1) == items[1:]
    assert await session.pop_item() == items[1]
    await session.clear_session()
    assert await session.get_items() == []


def test_the_revisions_are_one_line_in_the_order_alembic_sees() -> None:
    scripts = ScriptDirectory.from_config(config())
    walked = [script.revision for script in scripts.walk_revisions()]
    assert walked[::-1] == ALL
    assert schema._revisions() == tuple(ALL)
    assert scripts.get_current_head() == HEAD
    (sdk,) = [script for script in scripts.walk_revisions() if script.revision == SDK_SESSIONS]
    assert Path(sdk.path).name == "6724700351b6_add_sdk_session_columns.py"


@pytest.mark.parametrize("revision", ALL)
def test_a_revision_imports_nothing_of_the_app(revision: str) -> None:
    (path,) = (schema.migrations_path() / "versions").glob(f"{revision}_*.py")
    imported = re.findall(r"^(?:from|import) (\S+)", path.read_text("utf-8"), re.MULTILINE)
    assert set(imported) == {"sqlalchemy", "alembic"}


async def test_a_generated_revision_writes_our_types_as_they_are_stored(engine: AsyncEngine, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    later = [f"{revision}*" for revision in ALL[ALL.index(SDK_SESSIONS) + 1 :]]
    shutil.copytree(schema.migrations_path(), folder, ignore=shutil.ignore_patterns("__pycache__", *later))
    await up(engine, SDK_SESSIONS)
    await autogenerate(engine, folder, "Add runs")
    (made,) = (folder / "versions").glob("*_add_runs.py")
    source = made.read_text("utf-8")
    compile(source, made, "exec")
    assert "tables." not in source
    assert "'cost_usd', sa.Numeric(20, 10).with_variant(sa.String(32), \"sqlite\")" in source
    assert f'down_revision = "{SDK_SESSIONS}"' in source
