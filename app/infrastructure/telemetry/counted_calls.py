"""Counts the gateway's calls where they are written, so that passing them on costs nothing more."""

import time
from collections.abc import Sequence

from app.domain.gateway_ports import GatewayCallStore
from app.domain.metrics_ports import Metrics
from app.domain.models.gateway import GatewayCall
from app.domain.models.runs import CompletionEvent


class CountedCalls:
    """GatewayCallStore that reports what another one has written."""

    def __init__(self, store: GatewayCallStore, metrics: Metrics) -> None:
        """Write to the store."""
        self._store = store
        self._metrics = metrics

    async def record(self, calls: Sequence[tuple[GatewayCall, CompletionEvent]], *, again: bool = False) -> None:
        """Write calls, then report them; see the port."""
        began = time.monotonic()
        await self._store.record(calls, again=again)
        self._metrics.gateway_called([call for call, _ in calls])
        self._metrics.captured("gateway", len(calls), time.monotonic() - began)
