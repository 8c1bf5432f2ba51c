"""Alembic's commands, run over a test's engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.schema import migrations_path

CONVERSATIONS = "c8a86589e6ff"
SDK_SESSIONS = "6724700351b6"
JOURNAL = "76f2bd8c2650"
STEP_BY_STEP = "b1d9c04e7a35"
KEYS = "c2a4e61f8d10"
SEARCH = "d3b7f5209c41"
ACCOUNTS = "e4c80a3b6d52"
DELIVERIES = "f7a1c93e5b60"
APPROVALS = "a5e07c92d4b8"
OUTSIDE = "a9d3e61b7c24"
PLACED = "b6f4d20a8e13"
ALL = [
    *(CONVERSATIONS, SDK_SESSIONS, JOURNAL, STEP_BY_STEP, KEYS, SEARCH, ACCOUNTS),
    *(DELIVERIES, APPROVALS, OUTSIDE, PLACED),
]
HEAD = ALL[-1]

TABLES = {
    CONVERSATIONS: {"agent_conversations", "agent_messages", "client_sessions"},
    SDK_SESSIONS: {"sdk_agent_sessions", "sdk_agent_session_messages"},
    JOURNAL: {"agent_runs", "agent_run_steps", "agent_run_events", "agent_run_usage", "completion_events"},
    STEP_BY_STEP: {"agent_run_approvals"},
    KEYS: {"organizations", "projects", "api_keys"},
    SEARCH: {"conversation_shares"},
    ACCOUNTS: set[str](),
    DELIVERIES: {"completion_sequence", "completion_destinations", "completion_deliveries", "webhook_endpoints"},
    APPROVALS: set[str](),
    OUTSIDE: {"completion_spool_cursors", "signing_keys"},
    PLACED: set[str](),
}


def config(connection: Connection | None = None, folder: Path | None = None) -> Config:
    made = Config(attributes={"connection": connection})
    made.set_main_option("script_location", str(folder or migrations_path()))
    made.set_main_option("path_separator", "os")
    return made


async def _run(engine: AsyncEngine, action: Callable[[Config], Any], folder: Path | None) -> None:
    async with engine.connect() as connection:
        await connection.run_sync(lambda sync: action(config(sync, folder)))


async def up(engine: AsyncEngine, revision: str = "head") -> None:
    await _run(engine, lambda made: command.upgrade(made, revision), None)


async def down(engine: AsyncEngine, revision: str = "base") -> None:
    await _run(engine, lambda made: command.downgrade(made, revision), None)


async def autogenerate(engine: AsyncEngine, folder: Path, message: str) -> None:
    await _run(engine, lambda made: command.revision(made, message, autogenerate=True), folder)
