"""One running fake server and one strict client for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from agents import set_tracing_disabled
from openai import AsyncOpenAI

from tests.fakes.openai import FakeOpenAI


@pytest.fixture(autouse=True)
def _no_tracing() -> None:
    """The SDK would send traces to the real API."""
    set_tracing_disabled(True)


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def client(fake: FakeOpenAI) -> AsyncIterator[AsyncOpenAI]:
    """The official client, without retries, refusing replies that are not of the published shape."""
    async with AsyncOpenAI(
        base_url=fake.base_url, api_key=fake.api_key, max_retries=0, _strict_response_validation=True
    ) as made:
        yield made
