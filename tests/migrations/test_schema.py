"""How a process finds out about the schema and brings it up to date."""

import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import ConfigurationError, StorageUnavailable
from app.infrastructure.persistence import schema
from app.infrastructure.persistence.engine import EngineLimits, build_engine, reading, writing
from tests.migrations.commands import ALL, CONVERSATIONS, HEAD, SDK_SESSIONS, down, up

ROOT = Path(__file__).parents[2]
AFTER_SDK = ALL[ALL.index(SDK_SESSIONS) + 1 :]

UPGRADE = """
import asyncio, json, sys
import alembic.command
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.schema import check, upgrade

async def main():
    engine = build_engine(sys.argv[1])
    applied = await upgrade(engine)
    state = await check(engine)
    await engine.dispose()
    print(json.dumps([applied, state.current]), flush=True)

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


async def _value(engine: AsyncEngine, statement: str) -> object:
    async with reading(engine) as connection:
        return await connection.scalar(text(statement))


async def test_check_tells_where_the_database_stands(engine: AsyncEngine) -> None:
    assert await schema.check(engine) == schema.SchemaState(None, HEAD, tuple(ALL), ahead=False)
    await up(engine, SDK_SESSIONS)
    state = await schema.check(engine)
    assert state == schema.SchemaState(SDK_SESSIONS, HEAD, tuple(AFTER_SDK), ahead=False)
    assert not state.up_to_date
    await up(engine)
    state = await schema.check(engine)
    assert state == schema.SchemaState(HEAD, HEAD, (), ahead=False)
    assert state.up_to_date
    await down(engine)
    assert (await schema.check(engine)).current is None


async def test_check_writes_nothing(engine: AsyncEngine) -> None:
    await schema.check(engine)
    names = "sqlite_master" if engine.dialect.name == "sqlite" else "pg_tables WHERE schemaname = 'public'"
    assert await _value(engine, f"SELECT count(*) FROM {names}") == 0


async def test_upgrade_returns_what_it_applied_and_then_nothing(engine: AsyncEngine) -> None:
    assert await schema.upgrade(engine) == ALL
    assert await schema.upgrade(engine) == []


async def test_upgrade_applies_only_what_is_missing(engine: AsyncEngine) -> None:
    await up(engine, CONVERSATIONS)
    assert await schema.upgrade(engine) == [SDK_SESSIONS, *AFTER_SDK]


async def test_two_upgrades_in_one_process_do_not_mix(engine: AsyncEngine) -> None:
    results = await asyncio.gather(schema.upgrade(engine), schema.upgrade(engine))
    assert sorted(results) == [[], ALL]


def test_two_processes_upgrade_a_fresh_database_at_the_same_time(database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, database_url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0, 0], answers
    results = [json.loads(out) for out, _ in answers]
    assert sorted(applied for applied, _ in results) == [[], ALL]
    assert [current for _, current in results] == [HEAD, HEAD]


async def test_a_failed_revision_leaves_whole_revisions_only(engine: AsyncEngine) -> None:
    """PostgreSQL keeps those before it, one transaction each; SQLite applies them together."""
    async with writing(engine) as connection:
        await connection.execute(text("CREATE TABLE completion_events (id INTEGER)"))  # the journal's last table
    with pytest.raises((DBAPIError, StorageUnavailable)):
        await schema.upgrade(engine)
    expected = SDK_SESSIONS if engine.dialect.name == "postgresql" else None
    assert (await schema.check(engine)).current == expected
    async with writing(engine) as connection:
        await connection.execute(text("DROP TABLE completion_events"))
    await schema.upgrade(engine)
    assert (await schema.check(engine)).current == HEAD


async def test_an_upgrade_waits_for_a_locked_file_beyond_one_timeout(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = 0
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    async def wait(_seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            other.execute("COMMIT")

    monkeypatch.setattr(schema.asyncio, "sleep", wait)
    engine = build_engine(sqlite_url, EngineLimits(sqlite_busy_timeout_s=0.02))
    assert await schema.upgrade(engine) == ALL
    assert waits == 2
    other.close()
    await engine.dispose()


async def test_ensure_migrates_sqlite_by_itself(sqlite_engine: AsyncEngine) -> None:
    await schema.ensure(sqlite_engine)
    assert (await schema.check(sqlite_engine)).current == HEAD
    await schema.ensure(sqlite_engine)


async def test_ensure_migrates_sqlite_in_memory() -> None:
    engine = build_engine("sqlite://")
    await schema.ensure(engine)
    assert (await schema.check(engine)).current == HEAD
    await engine.dispose()


async def test_ensure_refuses_an_empty_postgresql(postgresql_engine: AsyncEngine) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await schema.ensure(postgresql_engine)
    assert caught.value.public_message == (
        f"The database schema is at revision none and this release needs {HEAD}: run durable-agents db upgrade"
    )
    assert (await schema.check(postgresql_engine)).current is None


async def test_ensure_refuses_an_old_postgresql_and_leaves_it_as_it_is(postgresql_engine: AsyncEngine) -> None:
    await up(postgresql_engine, SDK_SESSIONS)
    with pytest.raises(ConfigurationError, match=f"{SDK_SESSIONS}.*{HEAD}.*run durable-agents db upgrade"):
        await schema.ensure(postgresql_engine)
    assert (await schema.check(postgresql_engine)).current == SDK_SESSIONS
    await schema.upgrade(postgresql_engine)
    await schema.ensure(postgresql_engine)


async def _set_revision(engine: AsyncEngine, revision: str) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


async def test_a_database_of_a_newer_release_is_used_with_a_warning(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await schema.upgrade(engine)
    await _set_revision(engine, "ffffffffffff")
    state = await schema.check(engine)
    assert (state.current, state.ahead, state.up_to_date) == ("ffffffffffff", True, True)
    await schema.ensure(engine)
    assert "ffffffffffff" in caplog.text
    assert await schema.upgrade(engine) == []


async def test_another_applications_database_is_refused(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('eeeeeeeeeeee')"))
    for action in (schema.check, schema.upgrade, schema.ensure):
        with pytest.raises(ConfigurationError, match="another application"):
            await action(engine)


async def test_the_connection_goes_back_to_the_pool_as_it_came(engine: AsyncEngine) -> None:
    await schema.upgrade(engine)
    if engine.dialect.name == "sqlite":
        assert await _value(engine, "PRAGMA foreign_keys") == 1
        async with writing(engine):
            pass
        return
    for setting in ("lock_timeout", "statement_timeout"):
        assert await _value(engine, f"SHOW {setting}") == "0"
    assert await _value(engine, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_a_table_in_use_ends_the_upgrade_soon_and_gives_its_lock_back(postgresql_engine: AsyncEngine) -> None:
    """Every later query on the table would wait behind the migration; so it gives up, and another try works."""
    await up(postgresql_engine, CONVERSATIONS)
    async with postgresql_engine.connect() as user:
        await user.execute(text("SELECT id FROM agent_conversations"))
        with pytest.raises(StorageUnavailable, match="in use"):
            await schema.upgrade(postgresql_engine)
    assert (await schema.check(postgresql_engine)).current == CONVERSATIONS
    assert await schema.upgrade(postgresql_engine) == [SDK_SESSIONS, *AFTER_SDK]


async def test_an_unreachable_database_is_unavailable(tmp_path: Path) -> None:
    engine = build_engine(f"postgresql:///x?host={tmp_path}")
    for action in (schema.check, schema.upgrade, schema.ensure):
        with pytest.raises(StorageUnavailable):
            await action(engine)
    await engine.dispose()


async def test_upgrading_leaves_the_apps_logging_alone(
    sqlite_engine: AsyncEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = logging.getLogger("mine")
    root = logging.getLogger()
    before = (root.level, list(root.handlers), mine.disabled)
    await schema.upgrade(sqlite_engine)
    assert (root.level, list(root.handlers), mine.disabled) == before
    assert all(type(handler) is logging.NullHandler for handler in logging.getLogger("alembic").handlers)
    assert capsys.readouterr() == ("", "")


def _python(code: str, *arguments: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_start_up_with_nothing_to_do_does_not_load_alembic(sqlite_url: str) -> None:
    code = (
        "import asyncio, sys\n"
        "from app.infrastructure.persistence import engine, schema\n"
        "made = engine.build_engine(sys.argv[1])\n"
        "async def main():\n"
        "    await schema.ensure(made)\n"
        "    await made.dispose()\n"
        "asyncio.run(main())\n"
        "print('alembic' in sys.modules)"
    )
    assert _python(code, sqlite_url) == "True\n"
    assert _python(code, sqlite_url) == "False\n"


def test_the_folder_is_found_in_the_checkout() -> None:
    assert schema.migrations_path() == ROOT / "migrations"


def test_a_missing_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "a" / "b" / "c" / "schema.py"))
    with pytest.raises(ConfigurationError, match="install durable-agents again"):
        schema.migrations_path()
