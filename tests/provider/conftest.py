"""A provider over a fresh SQLite file, and the fake server; nothing here reaches the network."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from agents import set_tracing_disabled
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.providers.openai.context import ACTIVE_RUN
from tests.fakes.openai import FakeOpenAI
from tests.network import no_network
from tests.provider.serving import Served, serving

__all__ = ["no_network"]


@pytest.fixture(autouse=True)
def tracing_on() -> None:
    """Other tests turn the SDK's tracing off for the whole process."""
    set_tracing_disabled(False)


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def serve(sqlite_engine: AsyncEngine) -> AsyncIterator[Callable[..., Any]]:
    """Serve agents until the test ends; then nothing that a run began may still run."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:

        async def start(*agents: Any, **options: Any) -> Served:
            return await stack.enter_async_context(serving(sqlite_engine, *agents, **options))

        yield start
    for _ in range(20):  # tasks that were cancelled just now end in their next turns
        await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()}
    assert not left, left
    assert ACTIVE_RUN.get() is None
