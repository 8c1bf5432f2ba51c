"""What takes in and delivers events as the variables and the file say, and anew when they have changed."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.completions import Completions, check_destinations, completion_options, open_completions
from app.domain.errors import ConfigurationError, StorageUnavailable
from app.domain.models.deliveries import EventFilter
from app.infrastructure.clock import SystemClock
from app.infrastructure.completions.spool import SpoolWriter
from app.infrastructure.persistence.deliveries import SqlDeliveryStore
from app.infrastructure.persistence.wakeups import build_wakeups
from app.services.delivery_rounds import Replaced
from app.settings import load_settings

AUDIT = """\
session_completion_runtime:
  destinations:
    - name: audit
      kind: jsonl
      endpoint: audit.jsonl
"""
ARCHIVE = AUDIT.replace("audit", "archive")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in list(os.environ):
        if name.startswith(("SCR_", "APP_DELIVERY_")):
            monkeypatch.delenv(name)
    for name, value in {"SCR_FLUSH_INTERVAL_MS": "20", "APP_DELIVERY_POLL_S": "0.02"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@asynccontextmanager
async def opened(engine: AsyncEngine, *, deliver: bool = True) -> AsyncIterator[Completions]:
    wakeups = build_wakeups(engine)
    await wakeups.start()
    try:
        options = completion_options(load_settings())
        async with open_completions(engine, SystemClock(), wakeups, options, deliver=deliver) as completions:
            yield completions
    finally:
        await wakeups.aclose()


def spool(folder: Path, *sessions: str, **fields: Any) -> None:
    writer = SpoolWriter(folder)
    for session_id in sessions:
        assert writer.append(json.dumps({"event_id": f"e-{session_id}", "session_id": session_id, **fields}).encode())
    writer.close()


async def sessions(completions: Completions) -> list[str]:
    return sorted(one.session_id for one in await completions.records.events(EventFilter()))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def recorded(completions: Completions, *expected: str) -> None:
    async with asyncio.timeout(20):
        while await sessions(completions) != list(expected):
            await asyncio.sleep(0.01)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_what_waits_in_the_spool_reaches_the_destinations_of_the_file(
    engine: AsyncEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "scr.yaml").write_text(AUDIT)
    monkeypatch.setenv("SCR_CONFIG", "scr.yaml")
    monkeypatch.setenv("SCR_SPOOL_DIR", "spool")
    spool(folder / "spool", "a", "b")
    async with opened(engine) as completions:
        await until(lambda: len(lines(folder / "audit.jsonl")) == 2)
        spool(folder / "spool", "c")
        taken = await completions.intake.take([{"session_id": "d"}], "default", "http")
        assert taken.accepted == 1
        await until(lambda: len(lines(folder / "audit.jsonl")) == 4)
        assert sorted(line["session_id"] for line in lines(folder / "audit.jsonl")) == ["a", "b", "c", "d"]


async def test_reload_switches_the_spool_off_and_on_and_loses_nothing(
    sqlite_engine: AsyncEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCR_SPOOL_DIR", "spool")
    async with opened(sqlite_engine) as completions:
        spool(folder / "spool", "a")
        await recorded(completions, "a")
        for variable, value in (("SCR_ENABLED", "false"), ("SCR_ENDPOINT", "https://scr.example")):
            with monkeypatch.context() as patch:
                patch.setenv(variable, value)
                await completions.reload()
            assert completions.relay is None
            assert completions.spool_place() is None
            spool(folder / "spool", value)
            await completions.reload()
            assert completions.relay is not None
            async with asyncio.timeout(20):
                while value not in await sessions(completions):
                    await asyncio.sleep(0.01)
        # Another folder: the old one keeps what comes from now on.
        monkeypatch.setenv("SCR_SPOOL_DIR", "other")
        await completions.reload()
        spool(folder / "other", "z")
        await recorded(completions, "a", "false", "https://scr.example", "z")
        assert completions.spool_place() == (Path("other"), 1 << 30)


async def test_without_a_spool_none_is_made(sqlite_engine: AsyncEngine, folder: Path) -> None:
    async with opened(sqlite_engine) as completions:
        assert completions.relay is None
        assert not (folder / "scr-spool").exists()
        spool(folder / "scr-spool", "a")
        await completions.reload()
        await recorded(completions, "a")


async def test_what_is_scrubbed_before_it_is_stored_follows(
    sqlite_engine: AsyncEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCR_SPOOL_DIR", "spool")
    said = {"metadata": {"mail": "ann@example.com"}}

    async def stored(completions: Completions, session_id: str) -> str:
        await recorded(completions, *sorted({*await sessions(completions), session_id}))
        (one,) = [one for one in await completions.records.events(EventFilter()) if one.session_id == session_id]
        return str(one.payload["metadata"]["mail"])

    async with opened(sqlite_engine) as completions:
        await completions.intake.take([{"session_id": "a", **said}], "default", "http")
        assert await stored(completions, "a") == "ann@example.com"
        monkeypatch.setenv("SCR_SCRUB_BEFORE_STORE", "pii")
        await completions.reload()
        await completions.intake.take([{"session_id": "b", **said}], "default", "http")
        spool(folder / "spool", "c", **said)
        for session_id in ("b", "c"):
            assert await stored(completions, session_id) == "[redacted:email]"


async def test_a_wrong_file_and_a_database_that_is_away_change_nothing(
    sqlite_engine: AsyncEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCR_CONFIG", "scr.yaml")
    (folder / "scr.yaml").write_text(AUDIT)
    async with opened(sqlite_engine) as completions:
        before, intake, relay = completions.configuration, completions.intake, completions.relay
        wrong = {
            AUDIT + "      timeout: 1\n": r"scr\.yaml, line 6: .*\.timeout: there is no such key",
            AUDIT + "      transform: x\n": r"scr\.yaml, line 3: There is no transform 'x'",
            ARCHIVE.replace("archive.jsonl", "no/a.jsonl"): r"scr\.yaml, line 5: destinations\.archive\.endpoint: ",
            "a: [": r"scr\.yaml, line 1: not YAML",
        }
        for text, message in wrong.items():
            (folder / "scr.yaml").write_text(text)
            with pytest.raises(ConfigurationError, match=message):
                await completions.reload()
        (folder / "scr.yaml").write_text(ARCHIVE)

        async def away(*_: object, **__: object) -> None:
            raise StorageUnavailable("The database is away.")

        with monkeypatch.context() as patch:
            patch.setattr(SqlDeliveryStore, "ensure", away)
            with pytest.raises(StorageUnavailable):
                await completions.reload()
        assert (completions.configuration, completions.intake, completions.relay) == (before, intake, relay)
        assert completions.destination_names() == ["audit"]
        assert await completions.reload() == Replaced(added=("archive",), changed=(), removed=("audit",))
        assert completions.destination_names() == ["archive"]


async def test_who_does_not_deliver_takes_in_all_the_same(
    sqlite_engine: AsyncEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCR_CONFIG", "scr.yaml")
    (folder / "scr.yaml").write_text(AUDIT)
    spool(folder / "scr-spool", "a")
    async with opened(sqlite_engine, deliver=False) as completions:
        assert (completions.deliveries, completions.relay) == (None, None)
        await completions.intake.take([{"session_id": "b"}], "default", "http")
        (folder / "scr.yaml").write_text(ARCHIVE)
        assert await completions.reload() == Replaced((), (), ())
        assert [one.name for one in completions.configuration.destinations] == ["archive"]
        assert await sessions(completions) == ["b"]


async def test_a_broken_destination_ends_the_start_with_its_line(
    sqlite_engine: AsyncEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCR_CONFIG", "scr.yaml")
    (folder / "scr.yaml").write_text(AUDIT + "      scrubbing: {patterns: [everything]}\n")
    with pytest.raises(ConfigurationError, match=r"^scr\.yaml, line 3: There is no scrubbing pattern 'everything'"):
        await check_destinations(completion_options(load_settings()))
    with pytest.raises(ConfigurationError, match=r"^scr\.yaml, line 3: "):
        async with opened(sqlite_engine):
            raise AssertionError("it started")
