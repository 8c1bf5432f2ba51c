"""Events per second from outside into the database: from a spool by its relay, and in batches as the API takes them."""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bootstrap import engine_of, upgrade_database
from app.capture import SessionCompletionRuntime
from app.capture_settings import CaptureSettings
from app.infrastructure.clock import SystemClock
from app.infrastructure.completions.relay import SpoolRelay
from app.infrastructure.persistence.outbox import SqlOutbox
from app.services.event_intake import MAX_BATCH_EVENTS, EventIntake, EventReader
from benchmarks.capture_client import EVENT
from benchmarks.databases import Database
from benchmarks.measuring import Scale
from benchmarks.report import print_table
from benchmarks.systems import settings_for

TARGET_PER_S = 20_000
_AT_ONCE = 2
_HEADER = ("database", "way", "events", "events/s", "least", "most", "CPU us/event", "target")


async def measure(databases: list[Database], scale: Scale) -> None:
    """Print the table."""
    events = 2_000 if scale.is_quick else 30_000
    ways = {
        "relay, 1,000 a batch": _relayed,
        f"intake, {MAX_BATCH_EVENTS:,} a request": partial(_taken, at_once=1),
        f"intake, {_AT_ONCE} requests at once": partial(_taken, at_once=_AT_ONCE),
    }
    rows: list[list[object]] = []
    for database in databases:
        for name, way in ways.items():
            samples = [await _round(database, way, events) for _ in range(scale.rounds)]
            rates = [events / wall_s for wall_s, _ in samples]
            verdict = "PASS" if median(rates) >= TARGET_PER_S else "below"
            target = f"{verdict} >= {TARGET_PER_S}/s" if database.name == "PostgreSQL" else ""
            cpu_us = median(cpu_s for _, cpu_s in samples) / events * 1e6
            rows.append([database.name, name, events, median(rates), min(rates), max(rates), cpu_us, target])
    print_table(
        "Events from outside into the outbox, one process",
        [
            "relay: SpoolRelay.run_once over a spool that is full, cursor and rows in one transaction a batch;",
            f"intake: EventIntake.take of {MAX_BATCH_EVENTS:,} events as bytes; one request after the other waits for",
            "the database each time, with several at once the next is read meanwhile. CPU: of this process.",
        ],
        _HEADER,
        rows,
    )


async def _round(database: Database, way: Any, events: int) -> tuple[float, float]:
    """Return wall and CPU seconds of one way into an empty database."""
    async with database.fresh() as url:
        settings = settings_for(url)
        await upgrade_database(settings)
        engine = engine_of(settings)
        try:
            spent: tuple[float, float] = await way(engine, events)
            async with engine.connect() as connection:
                found = (await connection.execute(text("SELECT count(*) FROM completion_events"))).scalar_one()
        finally:
            await engine.dispose()
    if found != events:
        raise RuntimeError(f"{found} events were recorded instead of {events}")
    return spent


async def _relayed(engine: AsyncEngine, events: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="ingest-") as folder:
        settings = CaptureSettings(mode="spool", spool_dir=Path(folder), endpoint=None)
        runtime = SessionCompletionRuntime(settings=settings)
        for _ in range(events // 100):
            runtime.capture_many([EVENT] * 100)
        runtime.close()
        read = partial(EventReader(SystemClock()).read, source="spool")
        stop = _watch()
        await SpoolRelay(engine, Path(folder), read).run_once()
        return stop()


async def _taken(engine: AsyncEngine, events: int, *, at_once: int) -> tuple[float, float]:
    bodies = [json.dumps({**EVENT, "event_id": f"ingest-{number}"}).encode() for number in range(events)]
    intake = EventIntake(SqlOutbox(engine), SystemClock(), lambda: None)
    batches = iter([bodies[first : first + MAX_BATCH_EVENTS] for first in range(0, events, MAX_BATCH_EVENTS)])

    async def send() -> None:
        for batch in batches:
            await intake.take(batch, "bench", "http")

    stop = _watch()
    await asyncio.gather(*(send() for _ in range(at_once)))
    return stop()


def _watch() -> Callable[[], tuple[float, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: (time.perf_counter() - wall, time.process_time() - cpu)
