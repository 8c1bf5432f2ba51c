"""What is shown of the system: the page of metrics, and the health of what is outside."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import AppError
from app.domain.metrics_ports import (
    WEBHOOK_ENDPOINTS,
    Backlog,
    DestinationHealth,
    SpoolHealth,
    SystemHealth,
)
from app.infrastructure.telemetry.metrics import PrometheusMetrics, gauge
from app.infrastructure.telemetry.process_metrics import ProcessorLoad, memory_bytes
from app.infrastructure.telemetry.spool_watch import look_into_spool

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 10.0
"""Seconds that what was seen of database and spool is shown before somebody's question leads to another look."""
LOOK_WAIT_S: Final = 0.5
"""Seconds that a question waits for that look; then it gets what was seen before."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What of the system is asked when somebody wants to know; nothing of it may wait."""

    names: Callable[[], Collection[str]] | None = None
    """The destinations that are worked for: those that the settings named once are of the past. None: all count."""
    spool: Callable[[], tuple[Path, int] | None] = lambda: None
    """Gives the folder that a relay of this process empties and the bytes it may hold; None: no relay runs here."""
    relay_failing: Callable[[], bool] = lambda: False
    dropped_calls: Callable[[], int] = lambda: 0
    """Gateway calls that were never recorded, since the process began."""
    open_calls: Callable[[], int] = lambda: 0
    """Gateway calls under way."""


class SystemMonitoring:
    """Monitoring of one process. Nothing is read until somebody asks, and nobody waits long."""

    def __init__(self, metrics: PrometheusMetrics, backlog: Backlog, watched: Watched | None = None) -> None:
        """Show what was reported to `metrics`, and what is found in backlog and spool."""
        self._metrics: Final = metrics
        self._backlog: Final = backlog
        self._watched: Final = watched or Watched()
        self._readers: Callable[[], int] = lambda: 0
        self._load: Final = ProcessorLoad()
        self._registry: Final = CollectorRegistry(auto_describe=False)
        self._destinations: Sequence[DestinationHealth] | None = None
        self._spool: SpoolHealth | None = None
        self._database = False
        self._seen_at = 0.0
        self._looked_at = float("-inf")
        self._look: asyncio.Task[None] | None = None
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(_Families(self))

    @property
    def metrics(self) -> PrometheusMetrics:
        """Where reports go; see the port."""
        return self._metrics

    @property
    def content_type(self) -> str:
        """Of `page`; see the port."""
        return CONTENT_TYPE_PLAIN_0_0_4

    def watch_readers(self, readers: Callable[[], int]) -> None:
        """Have `readers` asked for open streams; see the port."""
        self._readers = readers

    async def page(self) -> bytes:
        """Return all metrics; see the port."""
        await self._looked()
        # In a thread: making the text of some hundred values takes milliseconds, and runs share this loop.
        return await asyncio.to_thread(generate_latest, self._registry)

    async def health(self) -> SystemHealth:
        """Return what is known of the outside; see the port."""
        await self._looked()
        relay: Literal["ok", "failing", "off"] = "ok"
        if self._watched.spool() is None:
            relay = "off"
        elif self._watched.relay_failing():
            relay = "failing"
        return SystemHealth(
            destinations=self._destinations,
            seen_s=None if self._destinations is None else time.monotonic() - self._seen_at,
            database=self._database,
            relay=relay,
            spool=self._spool,
        )

    async def aclose(self) -> None:
        """End a look that is under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait((self._look,))

    def families(self) -> Iterator[Metric]:
        """Yield what is asked for when a page is made, beside what was reported."""
        yield from self._metrics.families()
        yield gauge("scr_memory_usage_bytes", "Resident memory of this process.", memory_bytes())
        yield gauge("scr_cpu_usage_percent", "Of one core, since the look before.", self._load.percent())
        spool = self._spool
        waiting, room = (0, 0) if spool is None else (spool.waiting_bytes, spool.max_bytes)
        yield gauge("scr_buffer_size_bytes", "Bytes that wait in the spool of this machine.", waiting)
        share = 100 * waiting / room if room else 0.0
        yield gauge("scr_buffer_utilization_percent", "The same, of what the spool may hold.", share)
        for name, meaning, value in (
            ("dropped", "Events for which the spool had no room.", spool and spool.dropped),
            ("refused", "Events that were wrong when they were captured.", spool and spool.refused),
            ("put_aside", "Events that the relay could not pass on.", spool and spool.put_aside),
        ):
            yield CounterMetricFamily(f"durable_agents_spool_{name}_total", meaning, value=value or 0)
        yield CounterMetricFamily(
            "durable_agents_gateway_dropped_records_total",
            "Gateway calls that were never recorded.",
            value=self._watched.dropped_calls(),
        )
        yield gauge("durable_agents_gateway_open_calls", "Gateway calls under way.", self._watched.open_calls())
        yield gauge("durable_agents_event_stream_readers", "Open event streams.", self._readers())
        yield gauge("durable_agents_database_up", "Whether it answered at the latest look.", float(self._database))
        yield from self._backlog_families(self._destinations or ())

    def _backlog_families(self, destinations: Sequence[DestinationHealth]) -> Iterator[Metric]:
        now_ms = time.time() * 1000
        for name, meaning, values in (
            ("deliveries_pending", "Events on their way.", [one.pending for one in destinations]),
            ("dead_letters", "Events that wait for a person.", [one.dead for one in destinations]),
            ("deliveries_unread", "Events not looked at yet.", [one.unread for one in destinations]),
            (
                "delivery_oldest_age_seconds",
                "Of the oldest event that has not arrived; 0: there is none.",
                [0.0 if one.oldest_ms is None else max(0.0, now_ms - one.oldest_ms) / 1000 for one in destinations],
            ),
            ("destination_up", "Whether it took something lately.", [float(not one.failures) for one in destinations]),
        ):
            family = GaugeMetricFamily(f"durable_agents_{name}", meaning, labels=["destination"])
            for one, value in zip(destinations, values, strict=True):
                family.add_metric([one.name], value)
            yield family

    async def _looked(self) -> None:
        """Look again when the latest look is old; wait for it a little."""
        if self._look is None or self._look.done():
            if time.monotonic() - self._looked_at < LOOK_EVERY_S:
                return
            self._look = asyncio.create_task(self._look_again(), name="look at destinations")
        await asyncio.wait((self._look,), timeout=LOOK_WAIT_S)

    async def _look_again(self) -> None:
        try:
            place = self._watched.spool()
            # One that cannot be read now is shown as it was: counters must not seem to begin anew.
            self._spool = None if place is None else await asyncio.to_thread(look_into_spool, *place) or self._spool
            found = await self._backlog.destinations()
        except (AppError, SQLAlchemyError) as error:  # the second: a file that is no database, a table of another shape
            if self._database:
                log.warning("destinations_not_seen", error=type(error).__name__)
            self._database = False
        else:
            names = self._watched.names
            known = None if names is None else {*names(), WEBHOOK_ENDPOINTS}
            self._destinations = [one for one in found if known is None or one.name in known]
            self._database, self._seen_at = True, time.monotonic()
        self._looked_at = time.monotonic()


class _Families(Collector):
    """Gives a registry what a monitoring has."""

    def __init__(self, monitoring: SystemMonitoring) -> None:
        self._monitoring = monitoring

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        return self._monitoring.families()
