"""How long what is recorded of finished runs and delivered events is kept."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from app.domain.errors import AppError
from app.domain.models.retention import Expiry, Pruned
from app.domain.ports import Clock
from app.domain.run_ports import RunRetention

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionAges:
    """How long rows are kept, in days; None: for ever."""

    deltas_d: float | None = 7.0
    journal_d: float | None = 90.0
    batch_rows: int = 1_000
    """Rows deleted by one transaction."""
    completions_d: float | None = 30.0
    """Completion events, from their recording; one that a destination has not got stays longer."""
    stateless_d: float = 1 / 24
    """Conversations of calls that are not kept, from the end of their run: what serves the call deletes them at once,
    unless it died before."""


class RetentionService:
    """Deletes what is older than the settings keep it."""

    def __init__(self, rows: RunRetention, clock: Clock, ages: RetentionAges | None = None) -> None:
        """Ages of rows of a run count from its end."""
        self._rows = rows
        self._clock = clock
        self._ages = ages or RetentionAges()

    async def prune(self, *, dry_run: bool = False) -> Pruned:
        """Delete old rows, or with `dry_run` count them; see `RunRetention`."""
        ages = self._ages
        expiry = Expiry(
            self._before(ages.deltas_d),
            self._before(ages.journal_d),
            self._before(ages.completions_d),
            self._before(ages.stateless_d),
        )
        return await self._rows.prune(expiry, batch_rows=ages.batch_rows, dry_run=dry_run)

    def _before(self, days: float | None) -> datetime | None:
        return None if days is None else self._clock.now() - timedelta(days=days)


@asynccontextmanager
async def pruning(prune: Callable[[], Awaitable[Pruned]], every_s: float) -> AsyncGenerator[None]:
    """Delete what is too old, again and again, until the block ends."""
    task = asyncio.create_task(_prune_forever(prune, every_s), name="prune")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _prune_forever(prune: Callable[[], Awaitable[Pruned]], every_s: float) -> None:
    """Prune; a database that is away is asked again next time."""
    while True:
        await asyncio.sleep(every_s)
        try:
            pruned = await prune()
        except AppError as error:
            log.warning("prune_failed", code=error.code)
        else:
            log.info(
                "pruned",
                deltas=pruned.delta_rows,
                events=pruned.event_rows,
                steps=pruned.step_rows,
                completions=pruned.completion_rows,
                conversations=pruned.conversation_rows,
            )
