"""Which revision of the schema a database is at, and bringing it to the one this release needs."""

import asyncio
import logging
import re
import sqlite3
from asyncio import AbstractEventLoop
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, column, inspect, select, table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import ConfigurationError, StorageUnavailable
from app.infrastructure.persistence.engine import reading, translated_errors

_log = logging.getLogger(__name__)

_VERSIONS = select(table("alembic_version", column("version_num")).c.version_num)
_LOCK_NOT_AVAILABLE = "55P03"
_TURN_S = 60
"""How long an upgrade of a SQLite file waits for another process's."""
_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Where a database stands against this release's revisions."""

    current: str | None
    """The revision the database is at; None when it was never migrated."""
    head: str
    """The last revision of this release."""
    pending: tuple[str, ...]
    """The revisions the database still lacks, in the order they apply."""
    ahead: bool
    """The database is at a revision this release does not know: a newer release made it."""

    @property
    def up_to_date(self) -> bool:
        """Nothing is pending. Also true when `ahead`: every release works on the schema of the next."""
        return not self.pending


def migrations_path() -> Path:
    """Return the folder of the migrations: inside this package when installed, at the top level in a checkout.

    Raises:
        ConfigurationError: it is in neither place; the installation is incomplete.
    """
    here = Path(__file__).resolve()
    # The package first: above an installed one lies site-packages, where a `migrations` would be someone else's.
    for path in (here.parent / "migrations", here.parents[3] / "migrations"):
        if (path / "env.py").is_file():
            return path
    raise ConfigurationError("The folder of database migrations is missing; install durable-agents again.")


async def check(engine: AsyncEngine) -> SchemaState:
    """Read where the database stands; writes nothing and does not load Alembic.

    Raises:
        ConfigurationError: the database holds another application's schema.
        StorageUnavailable: no answer in time.
    """
    revisions = _revisions()
    async with reading(engine) as connection:
        current = await connection.run_sync(_current)
        if current is not None and current not in revisions:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table("agent_conversations")):
                raise ConfigurationError(
                    f"DATABASE_URL names a database of another application (its schema is at '{current}')."
                )
            return SchemaState(current, revisions[-1], pending=(), ahead=True)
    done = 0 if current is None else revisions.index(current) + 1
    return SchemaState(current, revisions[-1], pending=revisions[done:], ahead=False)


async def upgrade(engine: AsyncEngine) -> list[str]:
    """Apply the revisions the database lacks; return those applied by this call, in order, empty when there were none.

    Processes that do it at the same time take turns, and each revision is applied once. A failure or a cancellation
    leaves whole revisions only: on SQLite all of them or none, on PostgreSQL those before the failed one.

    Raises:
        ConfigurationError: the database holds another application's schema.
        StorageUnavailable: no answer in time, or a table or another process's turn was waited for in vain; try again.
    """
    applied: list[str] = []
    async with _turn():
        give_up_at = monotonic() + _TURN_S
        while True:
            try:
                if (await check(engine)).up_to_date:
                    break
                await _apply(engine, applied)
            except StorageUnavailable as error:
                # SQLite has no queue for those who want a file: another process's upgrade may outlast its timeout.
                if not _is_someone_elses_turn(error) or monotonic() > give_up_at:
                    raise
                applied.clear()
                await asyncio.sleep(_RETRY_S)
    if applied:
        _log.info("The database schema was upgraded: %s", ", ".join(applied))
    return applied


def _is_someone_elses_turn(error: StorageUnavailable) -> bool:
    """Tell whether SQLite's file was locked; any other failure of it would only come again."""
    cause = error.__cause__
    code = getattr(cause.orig, "sqlite_errorcode", 0) if isinstance(cause, DBAPIError) else 0
    return code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}  # the upper bits tell which kind of it


async def _apply(engine: AsyncEngine, applied: list[str]) -> None:
    try:
        with translated_errors():
            async with engine.connect() as connection:
                await connection.run_sync(_run_alembic, applied)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise StorageUnavailable("A table that has to change is in use. Try again later.") from error
        raise


async def ensure(engine: AsyncEngine) -> None:
    """Make sure at start-up that this release can work on the database.

    A SQLite file belongs to this process's user and is upgraded here. A PostgreSQL schema is changed by an operator at
    a time of their choosing, so an old one is refused.

    Raises:
        ConfigurationError: PostgreSQL's schema is too old, or the database is another application's.
        StorageUnavailable: no answer in time.
    """
    state = await check(engine)
    if state.ahead:
        _log.warning("The database schema is at %s, made by a release newer than this one", state.current)
    if state.up_to_date:
        return
    if engine.dialect.name == "sqlite":
        await upgrade(engine)
        return
    raise ConfigurationError(
        f"The database schema is at revision {state.current or 'none'} and this release needs {state.head}: "
        "run durable-agents db upgrade"
    )


_turns: WeakKeyDictionary[AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _turn() -> asyncio.Lock:
    """Return the loop's lock on Alembic: it keeps its state in a module, so two upgrades in a process would mix."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def _run_alembic(connection: Connection, applied: list[str]) -> None:
    # Here and not above: loading Alembic takes 0.2 s, and nearly every start-up finds nothing to do.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    def on_version_apply(*, step: Any, **_: Any) -> None:
        applied.append(step.up_revision_id)

    config = Config(attributes={"connection": connection, "on_version_apply": on_version_apply})
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(_VERSIONS)


_ASSIGNED = re.compile(r'^(revision|down_revision) = (?:"([^"]+)"|None)$', re.MULTILINE)


@cache
def _revisions() -> tuple[str, ...]:
    """Return this release's revisions from the first to the head, read as text; a test compares with Alembic's."""
    after: dict[str | None, str] = {}
    for path in (migrations_path() / "versions").glob("*.py"):
        assigned = {name: value or None for name, value in _ASSIGNED.findall(path.read_text("utf-8"))}
        after[assigned["down_revision"]] = str(assigned["revision"])
    chain: list[str] = []
    while (following := after.get(chain[-1] if chain else None)) is not None:
        chain.append(following)
    return tuple(chain)
