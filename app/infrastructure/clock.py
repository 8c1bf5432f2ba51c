"""The clock of this machine."""

import time
from datetime import UTC, datetime


class SystemClock:
    """Clock on the operating system's clocks."""

    def now(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.monotonic()
