"""Faults that nobody foresaw, at the end of a run: what is paid for is written as soon as they pass."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.domain.models.runs import Run, RunRecord, RunRequest, RunStatus
from app.infrastructure.persistence.journal import SqlRunJournal
from app.services.executions import MAX_FAULTS
from tests.contract.journal.factory import CALLER, row_of
from tests.crash.worker import working


class Faulty(SqlRunJournal):
    """Fails to write the end of a run, some times."""

    faults = 0

    async def finish(self, run: Run, record: RunRecord) -> None:
        if self.faults:
            self.faults -= 1
            raise LookupError("out of order")
        await super().finish(run, record)


@pytest.mark.parametrize(("faults", "attempts"), [(MAX_FAULTS - 1, 1), (MAX_FAULTS, 2)], ids=["passes", "stays"])
async def test_a_fault_at_the_end(sqlite_engine: AsyncEngine, faults: int, attempts: int) -> None:
    journal = Faulty(sqlite_engine, lease_s=1)
    journal.faults = faults
    with capture_logs() as lines:
        async with working(sqlite_engine, journal=journal, lease_s=1, take_over=True) as worker, asyncio.timeout(30):
            result: Any = await worker.runs.run(RunRequest(CALLER, "hello"))
    assert (result.status, result.output) == (RunStatus.COMPLETED, "re: hello")
    assert (await row_of(sqlite_engine, result.run_id)).attempts == attempts
    assert [line["event"] for line in lines].count("end_retried") == MAX_FAULTS - 1
