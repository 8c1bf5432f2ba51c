"""Backlogs as tests want them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from app.domain.errors import StorageUnavailable
from app.domain.metrics_ports import DestinationHealth


def health(name: str = "audit", **fields: Any) -> DestinationHealth:
    """A destination that does well."""
    values: dict[str, Any] = {
        "failures": 0,
        "last_success_ms": 1_000,
        "last_failure_ms": None,
        "pending": 0,
        "dead": 0,
        "unread": 0,
        "oldest_ms": None,
    }
    return DestinationHealth(name=name, **values | fields)


class Known:
    """A database that tells what it is given, hangs, or is away."""

    def __init__(self, *found: DestinationHealth) -> None:
        self.found: Sequence[DestinationHealth] = found
        self.looks = 0
        self.away: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def destinations(self) -> Sequence[DestinationHealth]:
        self.looks += 1
        await self.open.wait()
        if self.away is not None:
            raise self.away
        return self.found

    def go_away(self) -> None:
        self.away = StorageUnavailable("The database did not answer in time.")
