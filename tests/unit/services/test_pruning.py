import asyncio

import pytest
from structlog.testing import capture_logs

from app.domain.errors import StorageUnavailable
from app.domain.models.retention import Pruned
from app.services.retention import pruning


async def test_it_goes_on_after_a_database_that_was_away_and_ends_with_its_block() -> None:
    twice = asyncio.Event()
    results: list[Pruned | Exception] = [StorageUnavailable("away"), Pruned(1, 2, 3)]

    async def prune() -> Pruned:
        if len(results) == 1:
            twice.set()
        result = results.pop(0) if results else Pruned(0, 0, 0)
        if isinstance(result, Exception):
            raise result
        return result

    before = asyncio.all_tasks()
    with capture_logs() as lines, pytest.raises(LookupError):
        async with pruning(prune, 0):
            await asyncio.wait_for(twice.wait(), 5)
            raise LookupError
    assert asyncio.all_tasks() == before
    assert [line["event"] for line in lines[:2]] == ["prune_failed", "pruned"]
