"""How long what is recorded of finished runs is kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.models.runs import Expiry, Pruned
from app.domain.ports import Clock
from app.domain.run_ports import RunRetention


@dataclass(frozen=True, slots=True)
class RetentionAges:
    """How long rows of finished runs are kept, in days; None: for ever."""

    deltas_d: float | None = 7.0
    journal_d: float | None = 90.0
    batch_rows: int = 1_000
    """Rows deleted by one transaction."""


class RetentionService:
    """Deletes what is older than the settings keep it."""

    def __init__(self, rows: RunRetention, clock: Clock, ages: RetentionAges | None = None) -> None:
        """Ages count from the end of a run."""
        self._rows = rows
        self._clock = clock
        self._ages = ages or RetentionAges()

    async def prune(self, *, dry_run: bool = False) -> Pruned:
        """Delete old rows, or with `dry_run` count them; see `RunRetention`."""
        ages = self._ages
        expiry = Expiry(self._before(ages.deltas_d), self._before(ages.journal_d))
        return await self._rows.prune(expiry, batch_rows=ages.batch_rows, dry_run=dry_run)

    def _before(self, days: float | None) -> datetime | None:
        return None if days is None else self._clock.now() - timedelta(days=days)
