"""Stored rows that hold no item: counted, logged once each, never shown."""

import logging
from collections import OrderedDict

from sqlalchemy.ext.asyncio import AsyncEngine

_logger = logging.getLogger(__name__)


class CorruptRows:
    """Remembers which corrupt rows this process has met."""

    def __init__(self, remembered: int = 1000) -> None:
        """Remember up to `remembered` rows; an older one that is met again is counted and logged again."""
        self.count = 0
        """Different rows met since the process started, dropped ones included."""
        self._met: OrderedDict[tuple[str, str, int], None] = OrderedDict()
        self._remembered = remembered

    def report(self, engine: AsyncEngine, table: str, row_id: int) -> None:
        """Count and log a row the first time it is met. The log names the row and none of its content."""
        key = (engine.url.render_as_string(hide_password=True), table, row_id)
        if key in self._met:
            return
        self.count += 1
        self._met[key] = None
        if len(self._met) > self._remembered:
            self._met.popitem(last=False)
        _logger.warning("Row %d of %s holds no item (invalid JSON, or not an object); it is left out.", row_id, table)


corrupt_rows = CorruptRows()
"""The process's own count, for metrics."""
