"""Each test has an application of its own over a fresh SQLite file; nothing here reaches the network."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from app.bootstrap import upgrade_database
from tests.api.serving import Served, serving, settings_of
from tests.fakes.openai import FakeOpenAI
from tests.network import no_network

__all__ = ["no_network"]


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[dict[str, Any]]]:
    """Collect log lines instead of printing them."""
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        yield lines


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file at this release's revision, to copy from: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "template.db"
    asyncio.run(upgrade_database(settings_of(f"sqlite:///{path}")))
    return path


@pytest.fixture
def database_file(migrated_template: Path, tmp_path: Path) -> str:
    """Return the URL of a fresh, migrated SQLite file."""
    return f"sqlite:///{shutil.copy(migrated_template, tmp_path / 'api.db')}"


@pytest.fixture
async def serve(database_file: str) -> AsyncIterator[Callable[..., Any]]:
    """Serve agents (the demo agents when there are none) until the test ends; then no task may be left."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:

        async def start(*agents: Any, options: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Served:
            settings = settings_of(database_file, **sections)
            return await stack.enter_async_context(serving(settings, agents=agents, **(options or {})))

        yield start
    for _ in range(20):  # tasks that were cancelled just now end in their next turns
        await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()}
    assert not left, left


@pytest.fixture
async def demo(serve: Callable[..., Any]) -> Served:
    """The application with the demo agents."""
    return await serve()


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Put the process's logging back as it was."""
    root = logging.getLogger()
    handlers, level, configuration = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configuration)
