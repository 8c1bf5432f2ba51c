"""What is shown while database and spool are well, slow, wrong or away."""

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.infrastructure.completions.spool import SpoolLimits, SpoolWriter
from app.infrastructure.completions.spool_reader import SpoolReader
from app.infrastructure.telemetry import monitoring as module
from app.infrastructure.telemetry.metrics import PrometheusMetrics
from app.infrastructure.telemetry.monitoring import SystemMonitoring, Watched
from app.infrastructure.telemetry.spool_watch import look_into_spool
from tests.api.monitored import Scrape, look_always
from tests.unit.infrastructure.telemetry.backlogs import Known, health


def watching(backlog: Known, **watched: Any) -> SystemMonitoring:
    return SystemMonitoring(PrometheusMetrics(), backlog, Watched(**watched))


async def page_of(monitoring: SystemMonitoring) -> Scrape:
    return Scrape((await monitoring.page()).decode())


async def test_a_database_that_hangs_holds_no_scrape_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_WAIT_S", 0.01)
    backlog = Known(health(pending=3))
    backlog.open.clear()
    monitoring = watching(backlog)
    try:
        for _ in range(3):
            began = time.monotonic()
            page = await page_of(monitoring)
            assert time.monotonic() - began < 5
            assert page.value("durable_agents_database_up") == 0
            assert page.labels("durable_agents_deliveries_pending", "destination") == set()
        assert backlog.looks == 1, "one look at a time, however many ask"
        assert (await monitoring.health()).destinations is None
        backlog.open.set()
        await asyncio.wait_for(monitoring._look, 5)  # type: ignore[arg-type] - it is under way
        assert (await page_of(monitoring)).value("durable_agents_deliveries_pending", destination="audit") == 3
    finally:
        await monitoring.aclose()


async def test_what_was_seen_stays_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    look_always(monkeypatch)
    backlog = Known(health(dead=2))
    monitoring = watching(backlog)
    assert (await page_of(monitoring)).value("durable_agents_database_up") == 1
    backlog.go_away()
    page = await page_of(monitoring)
    assert page.value("durable_agents_database_up") == 0
    assert page.value("durable_agents_dead_letters", destination="audit") == 2
    told = await monitoring.health()
    assert (told.database, told.destinations) == (False, [health(dead=2)])
    backlog.away = None
    assert (await page_of(monitoring)).value("durable_agents_database_up") == 1


async def test_a_database_that_is_none_is_one_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    look_always(monkeypatch)
    backlog = Known()
    backlog.away = OperationalError("SELECT 1", {}, sqlite3.DatabaseError("file is not a database"))
    assert (await page_of(watching(backlog))).value("durable_agents_database_up") == 0


async def test_looks_are_seldom() -> None:
    backlog = Known(health())
    monitoring = watching(backlog)
    for _ in range(20):
        await monitoring.page()
        await monitoring.health()
    assert backlog.looks == 1


async def test_closing_ends_a_look_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_WAIT_S", 0.0)
    backlog = Known()
    backlog.open.clear()
    monitoring = watching(backlog)
    before = asyncio.all_tasks()
    await monitoring.page()
    await monitoring.aclose()
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()
    await watching(Known()).aclose()


async def test_destinations_of_the_past_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    look_always(monkeypatch)
    names = ["audit"]
    monitoring = watching(Known(health("audit"), health("old"), health("webhook_endpoints")), names=lambda: names)
    name = "durable_agents_destination_up"
    assert (await page_of(monitoring)).labels(name, "destination") == {"audit", "webhook_endpoints"}
    names.append("old")
    assert (await page_of(monitoring)).labels(name, "destination") == {"audit", "old", "webhook_endpoints"}


async def test_what_the_gateway_and_the_streams_tell() -> None:
    monitoring = watching(Known(), dropped_calls=lambda: 7, open_calls=lambda: 3)
    monitoring.watch_readers(lambda: 5)
    page = await page_of(monitoring)
    assert page.value("durable_agents_gateway_dropped_records_total") == 7
    assert page.value("durable_agents_gateway_open_calls") == 3
    assert page.value("durable_agents_event_stream_readers") == 5


async def test_the_spool_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_always(monkeypatch)
    folder, room = tmp_path / "spool", 64 * 1024
    writer = SpoolWriter(folder, SpoolLimits(max_bytes=room))
    taken = 0
    while writer.append(b"x" * 1_000):
        taken += 1
    writer.append(b"x" * 1_000)
    writer.count_refused(4)
    monitoring = watching(Known(), spool=lambda: (folder, room))
    page = await page_of(monitoring)
    size = page.value("scr_buffer_size_bytes")
    assert taken * 1_000 < size <= room
    assert page.value("scr_buffer_utilization_percent") == pytest.approx(100 * size / room)
    assert page.value("durable_agents_spool_dropped_total") == 2
    assert page.value("durable_agents_spool_refused_total") == 4
    reader = SpoolReader(folder)
    with reader.locked() as mine:
        assert mine
        while reader.next_batch(1_000, 1 << 20):
            reader.advance()
    reader.put_aside(b"x", "no event")
    reader.close()
    writer.close()
    page = await page_of(monitoring)
    assert page.value("scr_buffer_size_bytes") == 0
    assert page.value("durable_agents_spool_put_aside_total") == 1
    assert page.value("durable_agents_spool_dropped_total") == 2


async def test_a_spool_that_cannot_be_read_does_not_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_always(monkeypatch)
    folder = tmp_path / "spool"
    writer = SpoolWriter(folder)
    writer.append(b"{}")
    writer.count_refused(3)
    monitoring = watching(Known(), spool=lambda: (folder, 1_000))
    assert (await page_of(monitoring)).value("durable_agents_spool_refused_total") == 3
    for file in folder.glob("cursor.db*"):
        file.unlink()
    (folder / "cursor.db").write_bytes(b"this is no database" * 100)
    assert look_into_spool(folder, 1_000) is None
    assert (await page_of(monitoring)).value("durable_agents_spool_refused_total") == 3
    writer.close()


def test_a_spool_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert look_into_spool(tmp_path / "none", 1_000) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("spool", "failing", "relay"), [(False, True, "off"), (True, False, "ok"), (True, True, "failing")]
)
async def test_how_the_relay_does(tmp_path: Path, *, spool: bool, failing: bool, relay: str) -> None:
    place = (tmp_path, 1_000) if spool else None
    told = await watching(Known(), spool=lambda: place, relay_failing=lambda: failing).health()
    assert told.relay == relay
    assert (told.spool is not None) == spool


@pytest.mark.parametrize(
    ("failures", "dead", "state"), [(0, 0, "ok"), (0, 1, "dead_letters"), (1, 0, "failing"), (1, 1, "failing")]
)
def test_states(failures: int, dead: int, state: str) -> None:
    assert health(failures=failures, dead=dead).state == state
