"""The run services of one process, put together as `bootstrap` does, with every part within a test's reach."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.clock import SystemClock
from app.infrastructure.dispatch.in_process import InProcessDispatcher
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.retention import SqlRunRetention
from app.infrastructure.persistence.wakeups import build_wakeups
from app.infrastructure.prices import GenaiPriceList
from app.services.executions import ExecutionLimits, Executions
from app.services.retention import RetentionService
from app.services.run_requests import RunLimits
from app.services.runs import RunService


@dataclass
class RunProcess:
    """What one process has for runs."""

    runs: RunService
    journal: SqlRunJournal
    dispatcher: InProcessDispatcher
    executions: Executions


@asynccontextmanager
async def run_process(
    engine: AsyncEngine,
    provider: Any,
    *,
    lease_s: float = 15,
    take_over: bool = False,
    journal: SqlRunJournal | None = None,
    limits: RunLimits | None = None,
    execution: ExecutionLimits | None = None,
    grace_s: float = 5,
    poll_s: float = 0.05,
    max_running: int = 100,
) -> AsyncIterator[RunProcess]:
    """Run the services over an engine; the provider is the caller's to close."""
    journal = journal or SqlRunJournal(engine, lease_s=lease_s)
    wakeups = build_wakeups(engine)
    executions = Executions(
        provider=provider,
        journal=journal,
        prices=GenaiPriceList(),
        clock=SystemClock(),
        wakeups=wakeups,
        limits=execution or ExecutionLimits(timeout_s=60),
    )
    dispatcher = InProcessDispatcher(
        journal, wakeups, lease_s=lease_s, poll_s=poll_s, max_running=max_running, take_over=take_over
    )
    executions.on_cancel(dispatcher.cancel)
    service = RunService(
        provider=provider,
        journal=journal,
        dispatcher=dispatcher,
        executions=executions,
        wakeups=wakeups,
        retention=RetentionService(SqlRunRetention(engine), SystemClock()),
        limits=limits or RunLimits(),
    )
    await wakeups.start()
    await dispatcher.start(executions.execute, executions.stop)
    try:
        yield RunProcess(service, journal, dispatcher, executions)
    finally:
        await dispatcher.stop(grace_s)
        await wakeups.aclose()
